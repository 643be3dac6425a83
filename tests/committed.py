"""Checkpoints with nothing in them, committed as real ones are; and what may happen to a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mobilebert_exp import manifest


def checkpoint(folder: Path, step: int, content: str = "") -> Path:
    """A committed checkpoint of two files; returns its prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = manifest.prefix_of(folder, step=step)
    Path(f"{prefix}.index").write_text(f"index {content or step}")
    Path(f"{prefix}.data-00000-of-00001").write_text(f"data {content or step}" * 50)
    manifest.commit(prefix, step=step, head="a head", model={"name": "toy", "num_layers": 1}, vocabulary="")
    return prefix


def flip(file: Path, *, bit: int | None = None) -> None:
    """Turns one bit over, in the middle unless it is told which."""
    content = bytearray(file.read_bytes())
    place = 4 * len(content) if bit is None else bit
    content[place // 8] ^= 1 << place % 8
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flipped": flip,
    "truncated": truncate,
    "lengthened": lengthen,
    "emptied": empty,
    "removed": Path.unlink,
}
