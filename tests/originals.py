"""The implementations that ours must equal, from tf-models, and invented SQuAD data to compare them on."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import squad_rows

from mobilebert_exp.data.tokenizer import SPECIAL_TOKENS

AWKWARD = [
    *("", " ", "\r\n", "\t", "\u00a0", "\u202f", "\u2009", "\u3000", "\u2028", "\u2029"),  # whitespace of all kinds
    *("\x00", "\x0b", "\x1c", "\x85", "\u200b", "\u200d", "\ufeff", "\u00ad", "\ufffd", "\ue000", "\u0378"),  # control
    *("e\u0301", "\u0301", "\u0345", "\u0394\u03a3", "\u03a3\u0301\u03b1"),  # accents, the final sigma
    *("\u0130", "\u00df", "\u1e9e", "\ufb01"),  # case
    *("\u00c5ngstr\u00f6m", "na\u00efve", "\u05d0\u05b8", "\u0627\u064e", "\u0b95\u0bcd", "\u0e01\u0e33"),  # marks
    *("\u4e2d\u6587", "\u3042", "\uf900", "\U00020000", "\U0002b825", "\ud55c"),  # East Asia
    *("\U0001f600", "\U0001f468\u200d\U0001f469", "1\u20442", "\u2460", "\u0660"),  # pictures, digits
    *("\u037e", "\u2014", "\u00ab", "`", "^", "~", "don't", "(1895-1943).", "$5.00", "[SEP]", "##s"),  # punctuation
    *("x" * 201, "y" * 401),  # beyond the limits of BERT and of tf-models
]
WORDS = [
    *("the", "a", "harp", "town", "river", "was", "built", "by", "in", "old"),
    *("new", "stone", "people", "who", "near", "first", "year", "bell", "tower", "made"),
]


def vocabulary() -> list[str]:
    """Every letter, whole and continuing, and some words."""
    letters = string.ascii_lowercase + string.digits + "\u0430\u03c3\u03c2\u03b4\u4e2d\u3042\u00e5\u00ef"
    pieces = [*letters, *(f"##{letter}" for letter in letters), *string.punctuation, "\u2014", "\u00ab"]
    return [*SPECIAL_TOKENS, *pieces, *(word for word in WORDS if len(word) > 1), "##ing", "##er", "19", "##43"]


def invent(seed: int, *, paragraphs: int = 12, version_2: bool = False, awkward: float = 0.1) -> dict[str, Any]:
    """SQuAD's layout around random words; answers are any stretch of characters, first one valid."""
    rng = random.Random(seed)

    def text(low: int, high: int) -> str:
        words = [rng.choice(AWKWARD if rng.random() < awkward else WORDS) for _ in range(rng.randint(low, high))]
        return "".join(word + rng.choice((" ", " ", " ", "\n", "-", "")) for word in words)

    def question(name: str, context: str) -> dict[str, Any]:
        start = rng.randrange(len(context))
        answer = context[start : start + rng.randint(1, 20)]
        has_answer = bool(answer.strip()) and not (version_2 and rng.random() < 0.5)
        entry: dict[str, Any] = {"id": name, "question": text(1, 12), "answers": []}
        if has_answer:
            entry["answers"].append({"answer_start": start, "text": answer})
        return entry | ({"is_impossible": not has_answer} if version_2 else {})

    def paragraph(number: int) -> dict[str, Any]:
        context = text(1, 90) + "end"
        questions = [question(f"q{number}-{index}", context) for index in range(4)]
        return {"context": context, "qas": [entry for entry in questions if version_2 or entry["answers"]]}

    articles = [{"title": f"t{number}", "paragraphs": [paragraph(number)]} for number in range(paragraphs)]
    return {"version": "invented", "data": articles}


def with_one_answer(path: Path, *, to: Path) -> Path:
    """The original trains only on files with one answer a question: keeps the first."""
    data = json.loads(path.read_text(encoding="utf-8"))
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                question["answers"] = question["answers"][:1]
    to.write_text(json.dumps(data), encoding="utf-8")
    return to


def tokenizer(vocab_file: Path, *, lower_case: bool) -> Any:
    from official.nlp.tools import tokenization

    return tokenization.FullTokenizer(str(vocab_file), do_lower_case=lower_case)


def squad_examples(path: Path, *, version_2: bool, training: bool) -> list[Any]:
    from official.nlp.data import squad_lib

    examples: list[Any] = squad_lib.read_squad_examples(str(path), training, version_2)
    return examples


def squad_windows(
    examples: Sequence[Any],
    tokenizer: Any,
    *,
    max_seq_length: int,
    doc_stride: int,
    max_query_length: int,
    training: bool,
) -> list[Any]:
    from official.nlp.data import squad_lib

    found: list[Any] = []

    def keep(feature: Any, is_padding: bool = False) -> None:
        if not is_padding:
            found.append(feature)

    squad_lib.convert_examples_to_features(
        examples, tokenizer, max_seq_length, doc_stride, max_query_length, training, keep, batch_size=1
    )
    return found


def squad_answers(
    examples: Sequence[Any], windows: Sequence[Any], *, start_logits: Any, end_logits: Any, **settings: Any
) -> tuple[dict[str, str], dict[str, Any], dict[str, float]]:
    from official.nlp.data import squad_lib

    results = [
        SimpleNamespace(unique_id=window.unique_id, start_logits=starts, end_logits=ends)
        for window, starts, ends in zip(windows, start_logits.tolist(), end_logits.tolist(), strict=True)
    ]
    wanted = ("unique_id", "example_index", "tokens", "token_to_orig_map", "token_is_max_context")
    spelled = [squad_rows.spelled(window) for window in windows]
    features = [SimpleNamespace(**{name: getattr(window, name) for name in wanted}) for window in spelled]
    predictions, n_best, null_odds = squad_lib.postprocess_output(examples, features, results, **settings)
    return predictions, n_best, null_odds
