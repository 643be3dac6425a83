"""GLUE: nine data sets of one or two sentences, and the AX diagnostic for models of MNLI.

What belongs to a data set for good (columns, labels, metrics) stands in `data/glue.py`; what a run may want otherwise
(learning rate, batch, epochs) in `conf/task/glue/datasets.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mobilebert_exp.checks import require
from mobilebert_exp.data import glue
from mobilebert_exp.data.glue import Dataset, Part
from mobilebert_exp.data.pairs import Example
from mobilebert_exp.errors import MissingDataError
from mobilebert_exp.metrics import Confusion, Correlation
from mobilebert_exp.tasks import _classification
from mobilebert_exp.tasks._classification import Classification, Places, Truth
from mobilebert_exp.tasks.base import Evaluation, Split

if TYPE_CHECKING:
    import numpy as np

SCORE = "glue_score"


@dataclass(kw_only=True, slots=True)
class Config(_classification.Config):
    """One data set of GLUE; `data_root` holds it under `glue/`, in the layout in which it is published."""

    dataset: Dataset = Dataset.cola

    def __post_init__(self) -> None:
        _classification.Config.__post_init__(self)
        about = glue.DESCRIPTIONS[self.dataset]
        known = (*about.metrics, SCORE) if about.num_scored else about.metrics
        require(
            self.main_metric in known,
            f"task.main_metric={self.main_metric} is not one of {', '.join(known)}, which "
            f"task.dataset={self.dataset.name} has; choose one",
        )


def create(config: Config, *, data_root: str | None, cache_dir: str) -> Classification:
    """The task; reads nothing yet."""
    places = Places(data_root=data_root, cache_dir=cache_dir)
    return Classification(config, GlueSource(config, places), places)


class GlueSource:
    """See `tasks._classification.Source`."""

    def __init__(self, config: Config, places: Places) -> None:
        self._config, self._places = config, places
        self._about = glue.DESCRIPTIONS[config.dataset]
        self.is_regression = not self._about.labels
        self.num_outputs = len(self._about.labels) or 1
        self.labels = self._about.labels
        self.head = glue.head(config.dataset)

    def files(self, split: Split) -> Mapping[str, Path]:
        return {f"{split.value}{part.name and f'_{part.name}'}": path for part, path in self._parts(split)}

    def examples(self, split: Split) -> Iterator[Example]:
        for part, path in self._parts(split):
            yield from glue.read(path, part, self._about, labelled=split is not Split.predict)

    def key(self) -> Mapping[str, object]:
        return {"glue": self._config.dataset.name}

    def evaluate(self, truths: Sequence[Truth], outputs_BC: np.ndarray, split: Split) -> Evaluation:
        answers = self._answers(outputs_BC)
        files: dict[str, Any] = {"predictions.json": self._predictions(truths, outputs_BC, answers)}
        if split is Split.predict:
            return Evaluation(metrics={}, files={**files, **self._submissions(truths, answers)})
        return Evaluation(metrics=self._metrics(truths, answers), files=files)

    def _parts(self, split: Split) -> list[tuple[Part, Path]]:
        """The files of a split."""
        parts, key = self._chosen(split)
        named = getattr(self._config, key)
        return [(part, self._places.file(f"glue/{part.file}", named=named, key=f"task.{key}")) for part in parts]

    def _chosen(self, split: Split) -> tuple[tuple[Part, ...], str]:
        """The parts of a split, and the setting that names a file; whose name says which part it is, else the first."""
        parts, key = self._of_split(split)
        named = getattr(self._config, key)
        if named is not None:
            name = PurePosixPath(named).name.removesuffix(".gz")
            parts = tuple(part for part in parts if PurePosixPath(part.file).name == name) or parts[:1]
        return parts, key

    def _of_split(self, split: Split) -> tuple[tuple[Part, ...], str]:
        if split is not Split.train:
            return (self._about.dev, "dev_file") if split is Split.dev else (self._about.test, "test_file")
        if self._about.train is None:
            raise MissingDataError(
                f"task.dataset={self._config.dataset.name} has no train part: it judges models of MNLI; train with "
                "task.dataset=mnli, then come back with mode=evaluate or mode=predict and init.checkpoint=RUN"
            )
        return (self._about.train,), "train_file"

    def _answers(self, outputs_BC: np.ndarray) -> list[int] | list[float]:
        """A class by number, or a score, for each example."""
        if self.is_regression:
            scores: list[float] = outputs_BC[:, 0].tolist()
            return scores
        classes: list[int] = outputs_BC.argmax(axis=-1).tolist()
        return classes

    def _metrics(self, truths: Sequence[Truth], answers: Sequence[Any]) -> dict[str, float]:
        found: dict[str, float] = {}
        for part in dict.fromkeys(truth.part for truth in truths):
            state = Correlation() if self.is_regression else Confusion(num_classes=self.num_outputs)
            for truth, answer in zip(truths, answers, strict=True):
                if truth.part == part:
                    assert truth.label is not None, "dev is read with its labels"
                    state.update(answer, truth.label)  # type: ignore[arg-type]
            found |= {f"{name}{part and f'_{part}'}": value for name, value in state.result().items()}
        figures = {name: found[name] for name in self._about.metrics if name in found}
        require(
            self._config.main_metric in (*figures, SCORE),
            f"task.main_metric={self._config.main_metric} cannot be told: no example of its part is evaluated; "
            "raise trainer.limit_eval, or choose another",
        )
        scored = [figures[name] for name in self._about.metrics[: self._about.num_scored] if name in figures]
        return {**figures, SCORE: sum(scored) / len(scored)} if scored else figures

    def _predictions(
        self, truths: Sequence[Truth], outputs_BC: np.ndarray, answers: Sequence[Any]
    ) -> dict[str, dict[str, Any]]:
        """By id: what was answered, how surely, and the truth where it is known."""
        sure = None if self.is_regression else _classification.probabilities(outputs_BC).max(axis=-1).tolist()
        found: dict[str, dict[str, Any]] = {}
        for index, (truth, answer) in enumerate(zip(truths, answers, strict=True)):
            record: dict[str, Any] = {"prediction": self._word(answer)}
            if sure is not None:
                record["probability"] = sure[index]
            if truth.label is not None:
                record["label"] = self._word(truth.label)
            found[f"{truth.part}-{truth.id}" if truth.part else truth.id] = record
        return found

    def _submissions(self, truths: Sequence[Truth], answers: Sequence[Any]) -> dict[str, str]:
        """The files that GLUE's server takes, one for each part."""
        names = {part.name: part.submission for part in self._chosen(Split.predict)[0]}
        rows: dict[str, list[str]] = {name: ["index\tprediction"] for name in names}
        for truth, answer in zip(truths, answers, strict=True):
            shown = f"{min(max(answer, 0.0), glue.HIGHEST_SCORE):.3f}" if self.is_regression else self._word(answer)
            rows[truth.part].append(f"{truth.id}\t{shown}")
        return {f"submission/{names[name]}": "\n".join(lines) + "\n" for name, lines in rows.items()}

    def _word(self, answer: int | float) -> str | float:
        return self._about.labels[int(answer)] if self._about.labels else answer
