"""How fast questions and sentences become feature files, against tf-models' own Python featurisers on the same text.

Beside that: what a second use costs, and how much memory ten times the data take. The text is invented, in the sizes of
SQuAD and GLUE (`texts.py`). Where MOBILEBERT_EXP_SHARED_DATA names a folder of real data, that is measured too.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import texts
from benchmarks.measurement import Comparison, Goal, Samples, in_turn
from benchmarks.processes import BenchmarkError, answer_of, require

ROUNDS = 3
TARGET = 25.0
SECOND_USE_S = 1.0
MEMORY_TARGET = 1.25
QUESTIONS = 10_000
TIMES = 10  # more of them for memory and for a second use: then about as many as SQuAD v1.1 has
LENGTH, STRIDE, QUERY_LENGTH = 384, 128, 64
ROW_LENGTH = 128
ROWS = {"SST-2's size, one sentence": (67_349, 10, 0), "MRPC's size, two sentences": (3_668, 20, 20),
        "QNLI's size, a question and a sentence": (104_743, 10, 28)}  # fmt: skip
OURS, PEER = "mobilebert_exp", "tf-models"
MODULES = {OURS: "benchmarks.peers.our_features", PEER: "benchmarks.peers.tf_models_features"}
SHARED_DATA = "MOBILEBERT_EXP_SHARED_DATA"


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where the files of a measurement lie, and how it goes on."""

    folder: Path
    rounds: int
    tell: Callable[[str], None]

    @property
    def vocabulary(self) -> Path:
        return self.folder / "vocab.txt"


def run(*, rounds: int, tell: Callable[[str], None]) -> list[Comparison]:
    """SQuAD and tables of sentences, then a second use and memory."""
    require("official", purpose="features")
    with tempfile.TemporaryDirectory(prefix="mobilebert_exp-benchmark-", ignore_cleanup_errors=True) as name:
        bench = _Bench(Path(name), rounds, tell)
        tell("inventing questions and sentences")
        small, large = bench.folder / "small.json", bench.folder / "large.json"
        texts.write_vocabulary(bench.vocabulary)
        texts.write_squad(small, questions=QUESTIONS)
        texts.write_squad(large, questions=TIMES * QUESTIONS)
        found = [_compare_squad(bench, small, what=f"{QUESTIONS:,} invented questions", vocabulary=bench.vocabulary)]
        for what, (count, words_a, words_b) in ROWS.items():
            table = bench.folder / "rows.tsv"
            texts.write_rows(table, count=count, words_a=words_a, words_b=words_b)
            found.append(_compare_rows(bench, table, what=what, vocabulary=bench.vocabulary))
        if os.environ.get(SHARED_DATA):
            found += _compare_real(bench, Path(os.environ[SHARED_DATA]))
        return [*found, *_second_use_and_memory(bench, small, large)]


def _compare_squad(bench: _Bench, file: Path, *, what: str, vocabulary: Path) -> Comparison:
    told: dict[str, Any] = {"kind": "squad", "file": str(file), "vocabulary": str(vocabulary)}
    told |= {"length": LENGTH, "stride": STRIDE, "query_length": QUERY_LENGTH}
    return _compare(bench, told, title=f"SQuAD features: {what}, {LENGTH} tokens, stride {STRIDE}, file to records")


def _compare_rows(bench: _Bench, file: Path, *, what: str, vocabulary: Path) -> Comparison:
    told = {"kind": "texts", "file": str(file), "vocabulary": str(vocabulary), "length": ROW_LENGTH}
    return _compare(bench, told, title=f"Features of a table: {what}, {ROW_LENGTH} tokens, file to records")


def _compare(bench: _Bench, told: Mapping[str, Any], *, title: str) -> Comparison:
    records: dict[str, int] = {}

    def measured(name: str) -> list[float]:
        with tempfile.TemporaryDirectory(dir=bench.folder) as place:
            job = {**told, "records": f"{place}/features.tfrecord", "overrides": _overrides(told, cache=Path(place))}
            answer = _answer(name, job, bench.folder)
        records[name] = answer["records"]
        return [answer["seconds"]]

    programs = {name: lambda name=name: measured(name) for name in MODULES}
    found = in_turn(programs, rounds=bench.rounds, tell=lambda text: bench.tell(f"{title.partition(', ')[0]}: {text}"))
    if len(set(records.values())) != 1:
        raise BenchmarkError(f"{title}: the numbers of records differ: {records}")
    note = f"Each writes {records[OURS]:,} records."
    return Comparison(
        title=title, ours=found[OURS], peers=(found[PEER],), goal=Goal.at_least, target=TARGET, notes=(note,)
    )


def _answer(name: str, job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return answer_of(["-m", MODULES[name], json.dumps(job)], folder=folder)


def _overrides(told: Mapping[str, Any], *, cache: Path) -> list[str]:
    """The command line of ours; a table needs none."""
    return [
        *("task=squad_v1", f"task.train_file={told['file']}", f"task.vocab_file={told['vocabulary']}"),
        *(f"task.max_seq_length={LENGTH}", f"task.doc_stride={STRIDE}", f"task.max_query_length={QUERY_LENGTH}"),
        f"cache_dir={cache}",
    ]


def _compare_real(bench: _Bench, data: Path) -> list[Comparison]:
    """SQuAD's train part, and rows of three data sets of GLUE, of which the text columns are taken."""
    vocabulary = data / "vocab/bert_uncased_vocab.txt"
    single = bench.folder / "single.json"
    content = json.loads((data / "squad/train-v1.1.json").read_text(encoding="utf-8"))
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                del question["answers"][1:]  # the peer trains on one answer a question
    single.write_text(json.dumps(content), encoding="utf-8")
    found = [_compare_squad(bench, single, what="real questions", vocabulary=vocabulary)]
    for name, part, columns in (("SST-2", "train", (0, None)), ("MRPC", "train", (3, 4)), ("QNLI", "dev", (1, 2))):
        table = bench.folder / "real.tsv"
        with (data / f"glue/{name}/{part}.tsv").open(encoding="utf-8-sig", newline="\n") as lines:
            rows = [line.rstrip("\r\n").split("\t") for line in lines][1:]
        with table.open("w", encoding="utf-8", newline="") as file:
            write = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
            first, second = columns
            write.writerows((row[first], "" if second is None else row[second], "0") for row in rows)
        found.append(_compare_rows(bench, table, what=f"{len(rows):,} real rows of {name}", vocabulary=vocabulary))
    return found


def _second_use_and_memory(bench: _Bench, small: Path, large: Path) -> list[Comparison]:
    seconds: dict[str, list[float]] = {"first": [], "second": []}
    peaks: dict[Path, list[float]] = {small: [], large: []}
    for number in range(1, bench.rounds + 1):
        for file in peaks:
            bench.tell(f"second use and memory: round {number} of {bench.rounds}: {file.stem}")
            with tempfile.TemporaryDirectory(dir=bench.folder) as place:
                told = {"file": str(file), "vocabulary": str(bench.vocabulary)}
                job = {"kind": "squad", "overrides": _overrides(told, cache=Path(place))}
                for use in seconds:
                    answer = _answer(OURS, job, bench.folder)
                    if file == large:
                        seconds[use].append(answer["seconds"])
                    if use == "first":
                        peaks[file].append(answer["peak_mib"])
    sizes = {small: f"{QUESTIONS:,} questions", large: f"{TIMES * QUESTIONS:,} questions"}
    memory = {file: Samples(name=sizes[file], values=tuple(values), unit="MiB") for file, values in peaks.items()}
    used = {use: Samples(name=f"{use} use", values=tuple(values)) for use, values in seconds.items()}
    return [
        Comparison(
            title=f"Second use: features of {sizes[large]} found in the cache",
            ours=used["second"],
            peers=(Samples(name="the limit", values=(SECOND_USE_S,)),),
            goal=Goal.at_most,
            target=1.0,
            beside=(used["first"],),
        ),
        Comparison(
            title=f"Peak memory while features are made: {TIMES} times the data",
            ours=memory[large],
            peers=(memory[small],),
            goal=Goal.at_most,
            target=MEMORY_TARGET,
            notes=("The processes together, their shared pages counted in each.",),
        ),
    ]
