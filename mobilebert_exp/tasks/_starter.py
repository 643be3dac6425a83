"""The embedded articles as SQuAD files, with their vocabulary: what tasks without data read.

Pre-training has its vocabulary from here too, so that whatever is pre-trained on embedded texts is fine-tuned on
embedded questions: the same words under the same numbers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobilebert_exp.data import cache, starter, vocabulary
from mobilebert_exp.tasks.base import Split

BASELINE_FILE = "relation_baseline.json"
VOCABULARY_FILE = "vocab.txt"


@dataclass(kw_only=True, slots=True)
class StarterConfig:
    """The embedded articles: how many, and how hard. See `data.starter.Recipe` for what the shares and counts mean."""

    seed: int = 0
    train_articles: int = 10_000
    dev_articles: int = 500
    vocabulary_size: int = 2048
    max_people: int = 3
    min_sentences: int = 4
    max_sentences: int = 6
    min_questions: int = 2
    max_questions: int = 4
    relations: int = 12
    values: int = 60
    first_names: int = 200
    lookup_share: float = 0.5
    unanswerable_share: float = 0.5

    def recipe(self) -> starter.Recipe:
        return starter.Recipe(
            people=(2, self.max_people),
            sentences=(self.min_sentences, self.max_sentences),
            questions=(self.min_questions, self.max_questions),
            relations=self.relations,
            values=self.values,
            first_names=self.first_names,
            lookup_share=self.lookup_share,
            unanswerable_share=self.unanswerable_share,
        )


def folder(settings: StarterConfig, *, version_2: bool, cache_dir: Path) -> Path:
    """The generated articles as SQuAD files, with the vocabulary of the train part and the baseline's answers."""

    def build(place: Path) -> dict[str, Any]:
        made = {
            split: starter.generate(
                seed=settings.seed,
                articles=articles,
                version_2=version_2,
                split=split.value,
                recipe=settings.recipe(),
            )
            for split, articles in ((Split.train, settings.train_articles), (Split.dev, settings.dev_articles))
        }
        for split, data in made.items():
            (place / f"{split.value}.json").write_text(json.dumps(data), encoding="utf-8")
        pieces = vocabulary.train(starter.texts(made[Split.train]), size=settings.vocabulary_size)
        (place / VOCABULARY_FILE).write_text("\n".join(pieces) + "\n", encoding="utf-8")
        (place / BASELINE_FILE).write_text(json.dumps(starter.relation_baseline(made[Split.dev])), encoding="utf-8")
        return {}

    key = {"starter": asdict(settings), "version": "2.0" if version_2 else "1.1"}
    return cache.cached(cache_dir / "starter", key=key, build=build)[0]
