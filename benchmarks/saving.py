"""What it costs to write a checkpoint that is known to be whole, and by which checksum.

`python -m benchmarks.saving [--model opt] [--model teacher] [--rounds 5] [--folder DIR]`. Each part is timed by itself
on weights alone, as those of the best are kept; medians. What `to the disk` takes is the disk's.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

CHUNK_BYTES = 2**18
WRITING = "TensorFlow writes"
PARTS = (WRITING, "read back and compared", "to the disk", "crc32c and manifest")


@dataclass(kw_only=True, frozen=True, slots=True)
class Taken:
    """Time by the clock, and of all processors together, which other programs disturb less."""

    wall_s: float
    processor_s: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saving", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", help="presets whose weights are saved; else opt and teacher")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where to write; the system's temporary folder unless given")
    chosen = parser.parse_args()
    for name in chosen.model or ["opt", "teacher"]:
        with tempfile.TemporaryDirectory(prefix="mobilebert_exp-saving-", dir=chosen.folder) as folder:
            _measure(name, Path(folder), rounds=chosen.rounds)


def _measure(name: str, folder: Path, *, rounds: int) -> None:
    import tensorflow as tf

    checkpoint = tf.train.Checkpoint(model=_random(name))
    rows = [_saved(checkpoint, folder / f"ckpt-{number}") for number in range(rounds + 1)][1:]
    data = next(folder.glob(f"ckpt-{rounds}.data-*"))
    size = data.stat().st_size
    print(f"\n{name}: {size / 1e6:,.0f} MB\n\n| part of a save | s | processor s | of writing |\n|---|---|---|---|")
    parts = {part: _median([row[part] for row in rows]) for part in PARTS}
    for part, taken in parts.items():
        share = taken.processor_s / parts[WRITING].processor_s
        print(f"| {part} | {taken.wall_s:.2f} | {taken.processor_s:.2f} | {share:.0%} |")
    print("\n| checksum | s | processor s | MB/s of processor |\n|---|---|---|---|")
    for algorithm, digest in CHECKSUMS.items():
        taken = _median([_timed(lambda digest=digest: digest(data)) for _ in range(rounds)])  # type: ignore[misc]
        speed = size / 1e6 / taken.processor_s
        print(f"| {algorithm} | {taken.wall_s:.2f} | {taken.processor_s:.2f} | {speed:,.0f} |")


def _median(taken: Sequence[Taken]) -> Taken:
    return Taken(
        wall_s=statistics.median(each.wall_s for each in taken),
        processor_s=statistics.median(each.processor_s for each in taken),
    )


def _random(name: str) -> tf.Module:
    """An encoder of a preset; what its weights are does not matter."""
    from mobilebert_exp import compose
    from mobilebert_exp.modeling.encoder import MobileBertEncoder

    return MobileBertEncoder(compose([f"model={name}", "model.vocab_size=30522"]).model)


def _saved(checkpoint: tf.train.Checkpoint, prefix: Path) -> dict[str, Taken]:
    """What each part of a save took; the checkpoint before it goes."""
    from mobilebert_exp import manifest
    from mobilebert_exp.modeling.checkpoints import native

    def sync() -> None:
        for file in manifest.files_of(prefix):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())

    found = {
        WRITING: _timed(lambda: checkpoint.write(str(prefix))),
        PARTS[1]: _timed(lambda: native.read_back(prefix)),
        PARTS[2]: _timed(sync),
        PARTS[3]: _timed(lambda: manifest.commit(prefix, step=0, head="", model={}, vocabulary="")),
    }
    manifest.remove_others(prefix.parent, keep=[prefix])
    return found


def _timed(do: Callable[[], object]) -> Taken:
    started, used = time.perf_counter(), time.process_time()
    do()
    return Taken(wall_s=time.perf_counter() - started, processor_s=time.process_time() - used)


def _crc32c(file: Path) -> bytes:
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            checksum.update(chunk)
    found: bytes = checksum.digest()
    return found


def _hashed(algorithm: str) -> Callable[[Path], bytes]:
    def digest(file: Path) -> bytes:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, algorithm).digest()

    return digest


CHECKSUMS: dict[str, Callable[[Path], bytes]] = {
    "crc32c": _crc32c,
    **{algorithm: _hashed(algorithm) for algorithm in ("sha256", "blake2b")},
}

if __name__ == "__main__":
    main()
