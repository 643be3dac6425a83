"""Runs every `.tflite` of a folder in turn in LiteRT, and prints the milliseconds of each run by the file's name."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

WARM_UP = 3


def opened(file: Path, *, threads: int, length: int) -> Interpreter:
    interpreter = Interpreter(str(file), num_threads=threads)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        is_word = "input_ids" in detail["name"] or "word_ids" in detail["name"]
        lowest, highest = (5, 30_000) if is_word else (1, 2) if "mask" in detail["name"] else (0, 2)
        drawn = np.random.default_rng(0).integers(lowest, highest, (1, length)).astype(np.int32)
        interpreter.set_tensor(detail["index"], drawn)
    return interpreter


def main() -> None:
    job = json.loads(sys.argv[1])
    files = sorted(Path(job["folder"]).glob("*.tflite"))
    interpreters = {file.stem: opened(file, threads=job["threads"], length=job["length"]) for file in files}
    found: dict[str, list[float]] = {name: [] for name in interpreters}
    for number in range(WARM_UP + job["runs"]):
        for name, interpreter in interpreters.items():
            started = time.perf_counter()
            interpreter.invoke()
            if number >= WARM_UP:
                found[name].append((time.perf_counter() - started) * 1e3)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
