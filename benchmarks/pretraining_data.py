"""How fast texts become pre-training data, against tf-models' own create_pretraining_data on the same text.

Beside that: how much memory ten times the text takes. The text is invented, its words recurring as words do
(`texts.py`). Where MOBILEBERT_EXP_SHARED_DATA names a folder of real data, its books are measured too.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import texts
from benchmarks.features import SHARED_DATA
from benchmarks.measurement import Comparison, Goal, Samples, in_turn
from benchmarks.processes import BenchmarkError, answer_of, require

ROUNDS = 3
TARGET = 15.0
MEMORY_TARGET = 1.25
SENTENCES = {1: 100_000, 10: 60_000}  # by dupe_factor; enough for every worker
MEMORY_SENTENCES, TIMES = 200_000, 10
ALIKE = 0.05  # the numbers of records may differ so much: pairs are drawn
OURS, PEER = "mobilebert_exp", "tf-models"
MODULES = {OURS: "benchmarks.peers.our_pretraining", PEER: "benchmarks.peers.tf_models_pretraining"}


def run(*, rounds: int, tell: Callable[[str], None]) -> list[Comparison]:
    """One pass and ten passes over a text, then memory."""
    require("official", purpose="pretraining_data")
    with tempfile.TemporaryDirectory(prefix="mobilebert_exp-benchmark-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        tell("inventing texts")
        vocabulary = folder / "vocab.txt"
        texts.write_vocabulary(vocabulary)
        found = []
        for dupe_factor, sentences in SENTENCES.items():
            text = folder / f"{sentences}.txt"
            texts.write_documents(text, sentences=sentences)
            job = {"files": [str(text)], "vocabulary": str(vocabulary), "dupe_factor": dupe_factor}
            what = f"{sentences:,} invented sentences, dupe_factor={dupe_factor}"
            found.append(_compare(job, folder, what=what, rounds=rounds, tell=tell))
        if os.environ.get(SHARED_DATA):
            found.append(_compare_books(Path(os.environ[SHARED_DATA]), folder, rounds=rounds, tell=tell))
        return [*found, _memory(vocabulary, folder, rounds=rounds, tell=tell)]


def _compare(job: dict[str, Any], folder: Path, *, what: str, rounds: int, tell: Callable[[str], None]) -> Comparison:
    answers: dict[str, dict[str, Any]] = {}

    def measured(name: str) -> list[float]:
        answers[name] = _answer(name, job, folder)
        return [answers[name]["seconds"]]

    programs = {name: lambda name=name: measured(name) for name in MODULES}
    found = in_turn(programs, rounds=rounds, tell=lambda text: tell(f"{what}: {text}"))
    ours, theirs = (answers[name]["records"] for name in (OURS, PEER))
    if abs(ours - theirs) > ALIKE * theirs:
        raise BenchmarkError(f"{what}: the numbers of records are not alike: {ours} and {theirs}")
    sentences = answers[OURS]["sentences"]
    speeds = ", ".join(f"{name} {sentences / found[name].median:,.0f}" for name in (OURS, PEER))
    return Comparison(
        title=f"Pre-training data: {what}, 128 tokens, texts to records",
        ours=found[OURS],
        peers=(found[PEER],),
        goal=Goal.at_least,
        target=TARGET,
        notes=(f"Records: {ours:,} and {theirs:,}. Sentences of the text a second: {speeds}.",),
    )


def _answer(name: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        return answer_of(["-m", MODULES[name], json.dumps({**job, "place": place})], folder=folder)


def _compare_books(data: Path, folder: Path, *, rounds: int, tell: Callable[[str], None]) -> Comparison:
    books = [str(book) for book in sorted((data / "books").glob("*.txt")) if _is_utf8(book)]
    job = {"files": books, "vocabulary": str(data / "vocab/bert_uncased_vocab.txt"), "dupe_factor": 1}
    return _compare(job, folder, what=f"{len(books)} books, dupe_factor=1", rounds=rounds, tell=tell)


def _is_utf8(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _memory(vocabulary: Path, folder: Path, *, rounds: int, tell: Callable[[str], None]) -> Comparison:
    once, many = folder / "once.txt", folder / "many.txt"
    texts.write_documents(once, sentences=MEMORY_SENTENCES)
    with many.open("wb") as file:
        for _ in range(TIMES):
            file.write(once.read_bytes())
    peaks: dict[Path, list[float]] = {once: [], many: []}
    for number in range(1, rounds + 1):
        for text in peaks:
            tell(f"memory: round {number} of {rounds}: {text.stem}")
            job = {"files": [str(text)], "vocabulary": str(vocabulary), "dupe_factor": 1}
            peaks[text].append(_answer(OURS, job, folder)["peak_mib"])
    samples = {text: _samples(text, values, many) for text, values in peaks.items()}
    return Comparison(
        title=f"Peak memory while pre-training data are made: {TIMES} times the text",
        ours=samples[many],
        peers=(samples[once],),
        goal=Goal.at_most,
        target=MEMORY_TARGET,
        notes=("The processes together, their shared pages counted in each.",),
    )


def _samples(text: Path, values: Sequence[float], many: Path) -> Samples:
    count = MEMORY_SENTENCES * (TIMES if text == many else 1)
    return Samples(name=f"{count:,} sentences", values=tuple(values), unit="MiB")
