"""Archives for tests, sound ones and others."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path


def packed_zip(path: Path, files: dict[str, bytes], *, link: str = "", compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip file; `link` is the name of a symbolic link in it."""
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in files.items():
            made.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            made.writestr(info, "/etc/passwd")
    return path


def packed_tar(path: Path, files: dict[str, bytes], *, other: tarfile.TarInfo | None = None) -> Path:
    """A tar file, compressed as its name says; `other` is a member that is no file."""
    kind = path.suffix.removeprefix(".")
    with tarfile.open(path, f"w:{'' if kind == 'tar' else kind}") as made:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
        if other is not None:
            made.addfile(other)
    return path
