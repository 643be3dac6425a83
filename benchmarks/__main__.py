"""The command line of the benchmarks: exit code 0 measured, 1 something could not be, 2 your mistake."""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import (
    convert,
    exports,
    features,
    first_step,
    input_pipeline,
    pretraining_data,
    report,
    startup,
    step_time,
    tokenizers,
    transfer_step,
)
from benchmarks.measurement import Comparison
from benchmarks.processes import BenchmarkError

BENCHMARKS = {
    "startup": startup,
    "first_step": first_step,
    "step_time": step_time,
    "transfer_step": transfer_step,
    "tokenizers": tokenizers,
    "features": features,
    "input_pipeline": input_pipeline,
    "convert": convert,
    "exports": exports,
    "pretraining_data": pretraining_data,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    chosen = parser.parse_args(arguments)
    for name in chosen.names:
        if name not in BENCHMARKS:
            near = difflib.get_close_matches(name, BENCHMARKS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(BENCHMARKS)}"
            parser.error(f"{name} is not a benchmark; {hint}")
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error(f"--rounds={chosen.rounds} is below 1; raise it")
    if chosen.out is not None and not os.access(chosen.out.parent, os.W_OK):
        parser.error(f"--out={chosen.out}: {chosen.out.parent} is no folder that can be written; choose another")
    if chosen.list:
        for name, module in BENCHMARKS.items():
            print(f"{name:<14} {_summary(module.__doc__)} ({module.ROUNDS} rounds)")
        return 0
    try:
        return _measure(chosen.names or list(BENCHMARKS), rounds=chosen.rounds, out=chosen.out)
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measures this package against its peers."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)} (all of them)")
    parser.add_argument("--list", action="store_true", help="say what each measures, and measure nothing")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="turns that each program gets, instead of its own number"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every measurement to a JSON file too")
    return parser


def _summary(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def _measure(names: Sequence[str], *, rounds: int | None, out: Path | None) -> int:
    facts = report.machine()
    if report.is_busy(facts):
        print(
            f"warning: the machine is busy (load {facts['load_before']:.2f}); the figures will be rough",
            file=sys.stderr,
        )
    found: list[tuple[str, Comparison]] = []
    failed = False
    for name in names:
        module = BENCHMARKS[name]
        try:
            comparisons = module.run(
                rounds=rounds or module.ROUNDS,
                tell=lambda text, name=name: print(f"{name}: {text}", file=sys.stderr, flush=True),
            )
        except BenchmarkError as problem:
            print(f"error: {problem}", file=sys.stderr)
            failed = True
            continue
        for comparison in comparisons:
            print(report.shown(comparison), end="\n\n", flush=True)
        found += [(name, comparison) for comparison in comparisons]
        if out is not None:
            report.write(out, facts=facts, found=found)
    if found:
        print(report.machine_line(facts))
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what we started ends with us
    sys.exit(main())
