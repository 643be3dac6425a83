"""Our features of a file: SQuAD's as the task makes them, cache and all, or those of a table of texts."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mobilebert_exp import compose, registry
from mobilebert_exp.data import pairs
from mobilebert_exp.data.pairs import Example
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.tasks.base import Split


def squad(job: dict[str, Any]) -> Callable[[], int]:
    """`features(train)` of a task that has read nothing yet; it finds them in the cache, or makes them."""
    task = registry.create_task(compose(job["overrides"]))
    return lambda: task.features(Split.train).num_features


def texts(job: dict[str, Any]) -> Callable[[], int]:
    """Two texts and a label a line."""

    def made() -> int:
        tokenizer = Tokenizer.from_file(job["vocabulary"], lower_case=True)
        records, rows = Path(job["records"]), _rows(Path(job["file"]))
        return pairs.write(records, rows, tokenizer, max_seq_length=job["length"], made=lambda count: None)

    return made


def _rows(path: Path) -> Iterator[Example]:
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            text_a, text_b, label = line.rstrip("\n").split("\t")
            yield Example(id="", text_a=text_a, text_b=text_b, label=int(label))


def main() -> None:
    job = json.loads(sys.argv[1])
    make = {"squad": squad, "texts": texts}[job["kind"]](job)
    started = time.perf_counter()
    made = make()
    seconds = time.perf_counter() - started
    own, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak_mib = (own + workers * len(os.sched_getaffinity(0))) / 1024  # of the children it is the largest one's
    print(json.dumps({"seconds": seconds, "records": made, "peak_mib": peak_mib}))


if __name__ == "__main__":
    main()
