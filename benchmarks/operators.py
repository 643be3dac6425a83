"""Where the time of one training step of `opt` goes: seconds by kind of operator, from TensorFlow's own profiler.

`python -m benchmarks.operators [--batch 8] [--length 128] [--steps 3]`. Operators run side by side on two threads, so
their seconds add up to more than the step; profiling costs a little itself.
"""

from __future__ import annotations

import argparse
import collections
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import SETTINGS
from benchmarks.step_time import job

WARM_UP_STEPS = 3
LISTED = 15  # the rest is one line
KINDS_SEPARATOR = ":"  # an event of an operator is `name:Kind`
NO_OPERATORS = {"Process", "Run", "RunWithBorrowedArgs"}  # of the executor, around them


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operators", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3, help="profiled steps, over which the figures are means")
    chosen = parser.parse_args()
    os.environ.update(SETTINGS)
    with tempfile.TemporaryDirectory(prefix="mobilebert_exp-profile-") as folder:
        _profile(Path(folder), batch=chosen.batch, length=chosen.length, steps=chosen.steps)
        seconds: collections.Counter[str] = collections.Counter()
        calls: collections.Counter[str] = collections.Counter()
        for kind, duration_s in _events(Path(folder)):
            seconds[kind] += duration_s / chosen.steps
            calls[kind] += 1
    total = sum(seconds.values())
    print(f"one step of opt, {chosen.batch} × {chosen.length}: {total:.2f} s of operators\n")
    print("| operator | ms | share | calls |\n|---|---|---|---|")
    for kind, value in seconds.most_common(LISTED):
        print(f"| {kind} | {1000 * value:.0f} | {value / total:.1%} | {calls[kind] / chosen.steps:.0f} |")
    rest = total - sum(value for _, value in seconds.most_common(LISTED))
    print(f"| all others | {1000 * rest:.0f} | {rest / total:.1%} | |")


def _profile(folder: Path, *, batch: int, length: int, steps: int) -> None:
    import tensorflow as tf

    from benchmarks.peers.ours import build

    model = build(job(batch=batch, length=length))
    for _ in range(WARM_UP_STEPS):
        model.step()
    with tf.profiler.experimental.Profile(
        str(folder), options=tf.profiler.experimental.ProfilerOptions(host_tracer_level=2)
    ):
        for _ in range(steps):
            model.step()


def _events(folder: Path) -> Iterator[tuple[str, float]]:
    """Kind and seconds of every operator that ran."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    for file in folder.rglob("*.xplane.pb"):
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
        for plane in space.planes:
            for event in (event for line in plane.lines for event in line.events):
                _, separator, kind = plane.event_metadata[event.metadata_id].name.rpartition(KINDS_SEPARATOR)
                if separator and kind.isidentifier() and kind not in NO_OPERATORS:
                    yield kind, event.duration_ps / 1e12


if __name__ == "__main__":
    main()
