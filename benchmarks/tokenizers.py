"""How fast paragraphs become token ids, against the original tokenizer; who else is fast, and who equals the original.

The original is tf-models' Python port of BERT's tokenizer: what it gives is right. Those that differ from it are shown
beside, and are no part of the ratio.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import texts
from benchmarks.measurement import Comparison, Goal, in_turn
from benchmarks.processes import answer_of, require

ROUNDS = 3
TARGET = 8.0
PARAGRAPHS = 2_000
OURS, ORIGINAL = "mobilebert_exp", "tf-models, Python"
NAMES = {OURS: "ours", ORIGINAL: "original", "tokenizers, Rust": "rust", "tensorflow-text": "tensorflow_text"}
MODULE = "benchmarks.peers.tokenizing"


def run(*, rounds: int, tell: Callable[[str], None]) -> list[Comparison]:
    """One comparison: paragraphs of SQuAD's size, all of them at once where a tokenizer takes many."""
    require("official", "tensorflow_text", "tokenizers", purpose="tokenizers")
    with tempfile.TemporaryDirectory(prefix="mobilebert_exp-benchmark-") as name:
        folder = Path(name)
        tell("inventing paragraphs")
        texts.write_vocabulary(folder / "vocab.txt")
        writer = texts.Writer(2)
        paragraphs = [" ".join(writer.words(texts.WORDS_A_PARAGRAPH)) for _ in range(PARAGRAPHS)]
        (folder / "texts.json").write_text(json.dumps(paragraphs), encoding="utf-8")
        last: dict[str, dict[str, Any]] = {}

        def measured(who: str) -> list[float]:
            job = {"name": NAMES[who], "file": "texts.json", "vocabulary": "vocab.txt", "characters": who not in last}
            last.setdefault(who, {}).update(answer_of(["-m", MODULE, json.dumps(job)], folder=folder))
            return [last[who]["seconds"]]

        found = in_turn({who: partial(measured, who) for who in NAMES}, rounds=rounds, tell=tell)
    return [
        Comparison(
            title=f"Tokenizers: ids of {PARAGRAPHS:,} paragraphs of {texts.WORDS_A_PARAGRAPH} words",
            ours=found[OURS],
            peers=(found[ORIGINAL],),
            goal=Goal.at_least,
            target=TARGET,
            beside=tuple(samples for who, samples in found.items() if who not in (OURS, ORIGINAL)),
            notes=tuple(_differences(who, last) for who in NAMES if who != ORIGINAL),
        )
    ]


def _differences(who: str, last: dict[str, dict[str, Any]]) -> str:
    """Where a tokenizer does not give what the original gives."""
    one, other = last[who], last[ORIGINAL]
    same = "equals" if one["digest"] == other["digest"] else "differs from"
    pairs = list(zip(one["characters"], other["characters"], strict=True))
    different = sum(found != right for found, right in pairs)
    return f"{who} {same} the original on these paragraphs, and differs on {different:,} of {len(pairs):,} characters."
