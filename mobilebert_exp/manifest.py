"""Which checkpoints are whole: those that a manifest, written last, commits.

Beside `ckpt-120.index` and `ckpt-120.data-…` lies `ckpt-120.json`: step, architecture, what the head answers, whose
words the model knows, size and crc32c of each file, and a sha256 of all that. Without it the others are what an
interrupted save left behind. No TensorFlow, because the assembler, the copy in a bucket and the tracker look for
checkpoints too. crc32c, because it is against accidents and costs a sixth of what sha256 does
(`python -m benchmarks.saving`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.files import write_json, write_text

POINTER = "checkpoint"  # TensorFlow's own, for its tools: names the newest checkpoint of a folder
_FORMAT = 1
_CHUNK_BYTES = 2**18
_PREFIX = re.compile(r"ckpt-(\d+)")
_MANIFEST = re.compile(r"ckpt-(\d+)\.json")
_FILE = re.compile(r"ckpt-\d+\.(index|data-\d+-of-\d+)")
# Files of a checkpoint, its manifest, that under its first name, and TensorFlow's folder of parts.
_BELONGS = re.compile(r"\.?(ckpt-\d+)[._].*")


class DamagedError(CheckpointError):
    """A committed checkpoint is not as it was written; `reason` says what is wrong, without a remedy."""

    def __init__(self, prefix: Path, reason: str) -> None:
        super().__init__(f"checkpoint {prefix} is damaged ({reason}); choose another")
        self.prefix = prefix
        self.reason = f"{prefix.name} is damaged ({reason})"


@dataclass(frozen=True, slots=True)
class FileSum:
    """What a file was when it was written; `size` in bytes, `crc32c` in hexadecimal."""

    size: int
    crc32c: str


@dataclass(kw_only=True, frozen=True, slots=True)
class Manifest:
    """What commits a checkpoint.

    Attributes:
      prefix: what the names of its files begin with.
      step: training steps done.
      head: what its head answers, as `Task.head`.
      model: the architecture, in the fields of `ModelConfig`.
      vocabulary: the digest of the words it was trained with; "" where nobody said.
      files: by name.
      sha256: of all the above, and by that of the checkpoint.
    """

    prefix: Path
    step: int
    head: str
    model: Mapping[str, Any]
    vocabulary: str
    files: Mapping[str, FileSum]
    sha256: str


def prefix_of(folder: Path, *, step: int) -> Path:
    """What the names of a checkpoint's files begin with."""
    return folder / f"ckpt-{step}"


def file_of(prefix: Path) -> Path:
    """The manifest of a checkpoint."""
    return prefix.with_name(f"{prefix.name}.json")


def step_of(name: str) -> int | None:
    """The step of a manifest, by its file's name; None for other files."""
    found = _MANIFEST.fullmatch(name)
    return int(found[1]) if found else None


def checkpoint_of(name: str) -> str:
    """The prefix of the checkpoint to which a file of a run belongs, both as relative names; "" for other files."""
    folder, _, last = name.rpartition("/")
    belongs = _BELONGS.fullmatch(last)
    return f"{folder}/{belongs[1]}" if belongs else ""


def is_sound(file: Path) -> bool:
    """Whether a manifest is as it was written, whatever became of the files that it commits."""
    try:
        read(file.with_suffix(""))
    except DamagedError:
        return False
    return True


def has_one(prefix: Path) -> bool:
    """Whether a checkpoint is committed."""
    return _PREFIX.fullmatch(prefix.name) is not None and file_of(prefix).is_file()


def was_interrupted(prefix: Path) -> bool:
    """Whether files lie there that look like a checkpoint among committed ones, and are none."""
    return _PREFIX.fullmatch(prefix.name) is not None and not has_one(prefix) and bool(committed(prefix.parent))


def committed(folder: Path) -> list[Path]:
    """Prefixes of the checkpoints in a folder, the newest first."""
    names = os.listdir(folder) if folder.is_dir() else []
    steps = sorted((step for step in map(step_of, names) if step is not None), reverse=True)
    return [prefix_of(folder, step=step) for step in steps]


def commit(prefix: Path, *, step: int, head: str, model: Mapping[str, object], vocabulary: str) -> Manifest:
    """Makes the files of `prefix` a checkpoint: brings them to the disk, sums them up, writes the manifest."""
    files = {path.name: _synced(path) for path in files_of(prefix)}
    record = {
        "format": _FORMAT,
        "step": step,
        "head": head,
        "model": dict(model),
        "vocabulary": vocabulary,
        "files": {name: {"size": found.size, "crc32c": found.crc32c} for name, found in files.items()},
    }
    _sync_folder(prefix.parent)
    digest = _digest(record)
    write_json(file_of(prefix), {**record, "sha256": digest})
    _sync_folder(prefix.parent)  # what is removed next must not be gone before this one is there
    return Manifest(
        prefix=prefix, step=step, head=head, model=dict(model), vocabulary=vocabulary, files=files, sha256=digest
    )


def check(prefix: Path) -> Manifest:
    """The manifest of a checkpoint, all of whose files were read and are as they were written.

    Raises:
      DamagedError: they are not.
    """
    found = read(prefix)
    for name, known in found.files.items():
        try:
            with prefix.with_name(name).open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                is_equal = size == known.size and _crc32c(stream) == known.crc32c
        except FileNotFoundError:
            raise DamagedError(prefix, f"{name} is missing") from None
        except OSError as problem:
            raise DamagedError(prefix, f"{name} cannot be read: {problem.strerror}") from None
        if size != known.size:
            raise DamagedError(prefix, f"{name} has {size:,} bytes, not {known.size:,}")
        if not is_equal:
            raise DamagedError(prefix, f"{name} has another crc32c than when it was written")
    return found


def first_whole(prefixes: Iterable[Path]) -> tuple[Manifest | None, list[DamagedError]]:
    """The first checkpoint that is whole, and what is wrong with those before it."""
    problems: list[DamagedError] = []
    for prefix in prefixes:
        try:
            return check(prefix), problems
        except DamagedError as problem:
            problems.append(problem)
    return None, problems


def newest_step(folder: Path) -> int:
    """Of the newest checkpoint in a folder that is whole; 0 without one."""
    found, _ = first_whole(committed(folder))
    return 0 if found is None else found.step


def remove(prefix: Path) -> None:
    """Removes a checkpoint, its manifest first: what is left at any moment is never taken for one."""
    file_of(prefix).unlink(missing_ok=True)
    for path in _all_of(prefix):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_others(folder: Path, *, keep: Collection[Path]) -> None:
    """Removes every checkpoint of a folder but those of `keep`, and what interrupted saves left there."""
    found = {folder / belongs[1] for name in os.listdir(folder) if (belongs := _BELONGS.fullmatch(name))}
    for prefix in sorted(found.difference(keep)):
        remove(prefix)


def point(folder: Path, prefixes: Iterable[Path]) -> None:
    """Tells TensorFlow's own tools of the checkpoints in a folder, the newest first."""
    names = [prefix.name for prefix in prefixes]
    lines = [f'model_checkpoint_path: "{names[0]}"', *(f'all_model_checkpoint_paths: "{name}"' for name in names[::-1])]
    write_text(folder / POINTER, "\n".join(lines) + "\n")


def files_of(prefix: Path) -> list[Path]:
    """The files of a checkpoint, but for its manifest."""
    return sorted(path for path in _all_of(prefix) if _FILE.fullmatch(path.name))


def _all_of(prefix: Path) -> list[Path]:
    """Whatever lies in its folder because of a checkpoint."""
    found = ((name, _BELONGS.fullmatch(name)) for name in os.listdir(prefix.parent))
    return [prefix.with_name(name) for name, belongs in found if belongs and belongs[1] == prefix.name]


def _synced(path: Path) -> FileSum:
    """TensorFlow leaves it to the system when its files reach the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        return FileSum(os.fstat(stream.fileno()).st_size, _crc32c(stream))


def _crc32c(stream: IO[bytes]) -> str:
    import google_crc32c

    found = google_crc32c.Checksum()
    while chunk := stream.read(_CHUNK_BYTES):
        found.update(chunk)
    return str(found.hexdigest().decode())


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _digest(record: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def read(prefix: Path) -> Manifest:
    """The manifest of a checkpoint, whatever became of its files; raises DamagedError where it is not as written."""
    file = file_of(prefix)
    try:
        record = json.loads(file.read_bytes())
        digest = record.pop("sha256")
        found = Manifest(
            prefix=prefix,
            step=record["step"],
            head=record["head"],
            model=record["model"],
            vocabulary=record.get("vocabulary", ""),
            files={name: FileSum(each["size"], each["crc32c"]) for name, each in record["files"].items()},
            sha256=digest,
        )
    except FileNotFoundError:
        raise DamagedError(prefix, f"{file.name} is missing") from None
    except OSError as problem:
        raise DamagedError(prefix, f"{file.name} cannot be read: {problem.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DamagedError(prefix, f"{file.name} is no manifest") from None
    if record.get("format") != _FORMAT and digest == _digest(record):
        raise DamagedError(prefix, f"{file.name} was written by a newer version of this package")
    if digest != _digest(record) or any(not name.startswith(f"{prefix.name}.") or "/" in name for name in found.files):
        raise DamagedError(prefix, f"{file.name} is not as it was written")
    return found
