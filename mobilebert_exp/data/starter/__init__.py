"""Starter data: invented SQuAD-style articles, so that a machine without network trains and learns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mobilebert_exp.data.starter import world
from mobilebert_exp.data.starter.articles import LOOKUP, MATCHING, UNANSWERABLE, Recipe
from mobilebert_exp.data.starter.articles import articles as _articles
from mobilebert_exp.errors import ConfigError

__all__ = ["LOOKUP", "MATCHING", "UNANSWERABLE", "Recipe", "documents", "generate", "relation_baseline", "texts"]

_SENTENCE_END = re.compile(r"(?<=\.) ")  # no sentence has another full stop


def generate(*, seed: int, articles: int, version_2: bool, split: str, recipe: Recipe | None = None) -> dict[str, Any]:
    """A SQuAD file as an object, v1.1 or v2.0 layout, the same in every process for the same arguments.

    Beyond SQuAD's keys, a question has `kind` and `relation`, and a paragraph `facts` in the order of its text.
    Raises ConfigError for an unknown split or a negative number of articles.
    """
    if split not in (world.TRAIN, world.DEV):
        raise ConfigError(f"starter split={split!r} is unknown; choose train or dev")
    if articles < 0:
        raise ConfigError(f"starter articles={articles} is below 0; raise it")
    made = _articles(seed=seed, count=articles, version_2=version_2, split=split, recipe=recipe or Recipe())
    return {"version": "v2.0" if version_2 else "1.1", "data": list(made)}


def texts(data: dict[str, Any]) -> list[str]:
    """Every paragraph followed by its questions: what a vocabulary is trained on."""
    found: list[str] = []
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            found.append(paragraph["context"])
            found.extend(question["question"] for question in paragraph["qas"])
    return found


def documents(*, seed: int, articles: int, paragraphs: int, split: str) -> Iterator[list[str]]:
    """Each article as its sentences, without questions; one with so many paragraphs."""
    recipe = replace(Recipe(), paragraphs=paragraphs)
    for article in generate(seed=seed, articles=articles, version_2=False, split=split, recipe=recipe)["data"]:
        yield [sentence for part in article["paragraphs"] for sentence in _SENTENCE_END.split(part["context"])]


def relation_baseline(data: dict[str, Any]) -> dict[str, str]:
    """Answers by question id from the relation alone: its first value in the paragraph, "" where there is none."""
    answers: dict[str, str] = {}
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            first: dict[str, str] = {}
            for fact in paragraph["facts"]:
                first.setdefault(fact["relation"], fact["value"])
            answers.update({question["id"]: first.get(question["relation"], "") for question in paragraph["qas"]})
    return answers
