"""XNLI: learn inference from English pairs, judge it in every language there is; or learn from translations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilebert_exp.checks import require
from mobilebert_exp.data import glue, xnli
from mobilebert_exp.data.pairs import Example
from mobilebert_exp.metrics import Confusion
from mobilebert_exp.spelling import nearest
from mobilebert_exp.tasks import _classification
from mobilebert_exp.tasks._classification import Classification, Places, Truth
from mobilebert_exp.tasks.base import Evaluation, Split

if TYPE_CHECKING:
    import numpy as np

ENGLISH_TRAIN = "glue/MNLI/train.tsv"


@dataclass(kw_only=True, slots=True)
class Config(_classification.Config):
    """Which pairs are learnt from, and which are judged.

    `train_languages: null` is English, and with `translate_train` all fifteen. `eval_part` is what mode=evaluate, and
    evaluation while training, read: dev, or test. mode=predict reads test.
    """

    main_metric: str = "accuracy"
    translate_train: bool = False
    train_languages: list[str] | None = None
    eval_part: xnli.Part = xnli.Part.dev

    def __post_init__(self) -> None:
        _classification.Config.__post_init__(self)
        require(self.train_languages != [], "task.train_languages is empty; name some, e.g. [en], or leave it out")
        for language in self.train_languages or ():
            near = nearest(language, xnli.LANGUAGES)
            hint = f"did you mean {near}? " if near else ""
            require(
                language in xnli.LANGUAGES,
                f"task.train_languages: {language} is not a language of XNLI; {hint}"
                f"there are {', '.join(xnli.LANGUAGES)}",
            )
        require(
            self.main_metric == "accuracy",  # which languages there are, only the file tells
            f"task.main_metric={self.main_metric} is not accuracy, the mean over the languages; leave it out",
        )
        require(
            not (self.translate_train and self.train_file),
            "task.translate_train=true reads a file for each of task.train_languages, and task.train_file is another; "
            "leave one of them out",
        )


def create(config: Config, *, data_root: str | None, cache_dir: str) -> Classification:
    """The task; reads nothing yet."""
    places = Places(data_root=data_root, cache_dir=cache_dir)
    return Classification(config, XnliSource(config, places), places)


class XnliSource:
    """See `tasks._classification.Source`."""

    num_outputs = len(xnli.LABELS)
    labels: tuple[str, ...] = xnli.LABELS
    is_regression = False
    head = glue.head(glue.Dataset.mnli)

    def __init__(self, config: Config, places: Places) -> None:
        self._config, self._places = config, places

    def files(self, split: Split) -> Mapping[str, Path]:
        config = self._config
        if split is Split.train and config.translate_train:
            return {f"train_{language}": self._translated(language) for language in self._languages}
        part = xnli.Part.test.value if split is Split.predict else config.eval_part.value
        relative, key = f"xnli/xnli.{part}.tsv", f"{part}_file"
        if split is Split.train:
            relative, key = ENGLISH_TRAIN, "train_file"
        return {split.value: self._places.file(relative, named=getattr(config, key), key=f"task.{key}")}

    def examples(self, split: Split) -> Iterator[Example]:
        if split is not Split.train:
            for path in self.files(split).values():
                yield from xnli.read(path, labelled=split is Split.dev)
        elif self._config.translate_train:
            for language in self._languages:
                yield from xnli.read(self._translated(language), language=language, only=[language])
        else:
            yield from xnli.read(self.files(split)["train"], language=xnli.ENGLISH, only=self._languages)

    def key(self) -> Mapping[str, object]:
        return {"xnli": self._languages}

    def evaluate(self, truths: Sequence[Truth], outputs_BC: np.ndarray, split: Split) -> Evaluation:
        answers = outputs_BC.argmax(axis=-1).tolist()
        sure = _classification.probabilities(outputs_BC).max(axis=-1).tolist()
        predictions: dict[str, dict[str, Any]] = {}
        states: dict[str, Confusion] = {}
        for truth, answer, probability in zip(truths, answers, sure, strict=True):
            record: dict[str, Any] = {"prediction": xnli.LABELS[answer], "probability": probability}
            if truth.label is not None:
                record["label"] = xnli.LABELS[int(truth.label)]
                states.setdefault(truth.part, Confusion(num_classes=self.num_outputs)).update(answer, int(truth.label))
            predictions[f"{truth.part}-{truth.id}"] = record
        each = {f"accuracy_{language}": state.result()["accuracy"] for language, state in sorted(states.items())}
        mean = {"accuracy": sum(each.values()) / len(each)} if each else {}
        return Evaluation(metrics={**mean, **each}, files={"predictions.json": predictions})

    @property
    def _languages(self) -> list[str]:
        every = list(xnli.LANGUAGES) if self._config.translate_train else [xnli.ENGLISH]
        return self._config.train_languages or every

    def _translated(self, language: str) -> Path:
        return self._places.file(f"xnli/multinli/multinli.train.{language}.tsv", named=None, key="")
