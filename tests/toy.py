"""A span task over invented rows, small enough to train inside a test, and what runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from fakes import FakeTracker

from mobilebert_exp.config import (
    Activation,
    Device,
    Distribution,
    ExperimentConfig,
    HardwareConfig,
    Initialization,
    LayerLoop,
    ModelConfig,
    Normalization,
    OptimizerConfig,
    TaskConfig,
    TrackerKind,
    TrackingConfig,
    TrainerConfig,
)
from mobilebert_exp.data import records
from mobilebert_exp.data.pipeline import training_batches
from mobilebert_exp.modeling import optimizers
from mobilebert_exp.modeling.heads import SpanModel, span_losses
from mobilebert_exp.modeling.variables import VariableSpec, encoder_variables, span_variables
from mobilebert_exp.runners import train
from mobilebert_exp.runners.base import Job, Outcome, StopRequest
from mobilebert_exp.runners.loop import TrainingLoop
from mobilebert_exp.runners.schedule import planned
from mobilebert_exp.runners.strategy import create_strategy
from mobilebert_exp.tasks.base import Column, Evaluation, Features, Split
from mobilebert_exp.tracking.base import RunInfo

TrackerT = TypeVar("TrackerT", bound=FakeTracker)

LENGTH = 12
VOCABULARY = 23
PAD, START, END = 0, 1, 2  # the answer of a row reaches from its START to its END


def model(**changes: Any) -> ModelConfig:
    """One layer, 16 wide, no dropout; unrolled, which is traced in half the time when there is but one."""
    plain = ModelConfig(
        name="toy",
        vocab_size=VOCABULARY,
        embedding_size=8,
        hidden_size=16,
        intra_bottleneck_size=8,
        intermediate_size=16,
        num_layers=1,
        num_heads=2,
        num_feedforward_networks=1,
        hidden_act=Activation.relu,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_bottleneck_attention=False,
        key_query_shared_bottleneck=True,
        normalization=Normalization.layer_norm,
        classifier_activation=False,
        max_positions=16,
        type_vocab_size=2,
        initializer_range=0.3,
        initialization=Initialization.bert,
        layer_loop=LayerLoop.unroll,
    )
    return dataclasses.replace(plain, **changes)


LOOPED = {"model__layer_loop": LayerLoop.scan, "model__num_layers": 2}  # changes of `experiment`: as `opt` is run


def experiment(**changes: Any) -> ExperimentConfig:
    """Ten steps of eight rows on one CPU; `changes` name leaves with double underscores: `trainer__max_steps=3`."""
    config = ExperimentConfig(
        seed=5,
        model=model(),
        task=TaskConfig(
            kind="toy",
            name="toy",
            main_metric="exact",
            max_seq_length=LENGTH,
            global_batch_size=8,
            eval_batch_size=8,
            num_train_epochs=100.0,
            # epsilon: a bias that no softmax heeds has a gradient of pure rounding, which must move nothing
            optimizer=OptimizerConfig(learning_rate=1e-2, bias_correction=True, epsilon=1e-4),
        ),
        hardware=HardwareConfig(name="cpu", device=Device.cpu, distribution=Distribution.one_device, steps_per_loop=10),
        tracking=TrackingConfig(kind=TrackerKind.none),
        trainer=TrainerConfig(max_steps=10),
    )
    for name, value in changes.items():
        config = _changed(config, name.split("__"), value)
    return config


def _changed(config: Any, path: Sequence[str], value: Any) -> Any:
    inner = value if len(path) == 1 else _changed(getattr(config, path[0]), path[1:], value)
    return dataclasses.replace(config, **{path[0]: inner})


@dataclass(kw_only=True)
class ToyTask:
    """See `tasks.base.Task`. `poisoned` is a row of the train split whose loss is not a number."""

    config: TaskConfig
    folder: Path
    train_rows: int = 30
    dev_rows: int = 21
    poisoned: int | None = None

    vocab_size = VOCABULARY
    head = "toy: a span"

    def num_examples(self, split: Split) -> int:
        return self.train_rows if split is Split.train else self.dev_rows

    def digests(self, splits: Iterable[Split]) -> Mapping[str, str]:
        return {"train": f"{self.train_rows} rows, {self.poisoned} poisoned"}

    def rows(self, split: Split) -> list[dict[str, list[Any]]]:
        rng = np.random.default_rng([7, split is Split.train])
        return [self._row(rng, number, split) for number in range(self.num_examples(split))]

    def _row(self, rng: np.random.Generator, number: int, split: Split) -> dict[str, list[Any]]:
        used = int(rng.integers(6, LENGTH + 1))
        start, end = sorted(int(place) for place in rng.choice(used, 2, replace=False))
        ids = [int(token) for token in rng.integers(END + 1, VOCABULARY, used)] + [PAD] * (LENGTH - used)
        ids[start], ids[end] = START, END
        poison = float("nan") if split is Split.train and number == self.poisoned else 1.0
        return {
            "number": [number],
            "input_ids": ids,
            "input_mask": [1] * used + [0] * (LENGTH - used),
            "start_positions": [start],
            "end_positions": [end],
            "weight": [poison],
        }

    def features(self, split: Split, *, limit: int | None = None) -> Features:
        count = self.num_examples(split) if limit is None else min(limit, self.num_examples(split))
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{split.value}-{count}.tfrecord"
        records.write(file, self.rows(split)[:count])
        whole, one = Column(shape=(LENGTH,)), Column(shape=(1,))
        columns = {"number": one, "input_ids": whole, "input_mask": whole, "start_positions": one, "end_positions": one}
        columns["weight"] = Column(shape=(1,), dtype="float32")
        return Features(files=(file,), columns=columns, num_features=count, num_examples=count)

    def variables(self, model: ModelConfig) -> list[VariableSpec]:
        return encoder_variables(model) + span_variables(model)

    def build(self, model: ModelConfig, *, seed: int, dtype: str) -> SpanModel:
        return SpanModel(model, seed=seed, dtype=dtype)

    def losses(self, module: SpanModel, batch: Mapping[str, tf.Tensor], *, seed: tf.Tensor | None) -> tf.Tensor:
        logits = module(batch["input_ids"], batch["input_mask"], tf.zeros_like(batch["input_ids"]), seed=seed)
        found = span_losses(*logits, batch["start_positions"][:, 0], batch["end_positions"][:, 0])
        return found * batch["weight"][:, 0]

    def outputs(self, module: SpanModel, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        start, end = module(batch["input_ids"], batch["input_mask"], tf.zeros_like(batch["input_ids"]))
        return {"number": batch["number"], "start": start, "end": end}

    def score(self, outputs: Mapping[str, np.ndarray], split: Split, *, limit: int | None = None) -> Evaluation:
        rows = self.rows(split)[:limit]
        assert outputs["number"][:, 0].tolist() == [row["number"][0] for row in rows], "every row once, in order"
        spans = [[int(a), int(b)] for a, b in zip(outputs["start"].argmax(1), outputs["end"].argmax(1), strict=True)]
        right = [span == row["start_positions"] + row["end_positions"] for span, row in zip(spans, rows, strict=True)]
        return Evaluation(metrics={"exact": 100 * float(np.mean(right))}, files={"predictions.json": spans})


def task(config: ExperimentConfig, folder: Path, **changes: Any) -> ToyTask:
    return ToyTask(config=config.task, folder=folder, **changes)


@dataclass(kw_only=True)
class Steps:
    """What a stretch of training left behind."""

    losses: np.ndarray
    gradient_norms: np.ndarray
    learning_rates: np.ndarray
    weights: dict[str, np.ndarray]


def steps(config: ExperimentConfig, task: ToyTask, *, calls: Sequence[int]) -> Steps:
    """Trains with the loop alone, `calls[i]` steps in its i-th call; neither evaluation nor checkpoints."""
    with create_strategy(config.hardware).scope():
        phase = planned(config, task)[0]
        module = task.build(config.model, seed=config.seed, dtype=config.hardware.dtype.value)
        step = tf.Variable(
            0, dtype=tf.int64, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, name="step"
        )
        optimizer = optimizers.create(
            {variable.name.split(":")[0]: variable for variable in module.trainable_variables},
            phase.optimizer,
            total_steps=phase.optimizer_steps,
            warmup_steps=phase.warmup_steps,
        )
        batches = training_batches(
            phase.phase.features(),
            batch_size=phase.phase.global_batch_size,
            seed=config.seed,
            skip_batches=0,
            only_batches=config.trainer.overfit_batches,
        )
        distributed = tf.distribute.get_strategy().experimental_distribute_dataset(batches)
        loop = TrainingLoop(
            planned=phase, module=module, optimizer=optimizer, step=step, batches=distributed, config=config
        )
        figures = [loop.train(tf.constant(count)) for count in calls]
    return Steps(
        losses=np.concatenate([part["loss"] for part in figures]),
        gradient_norms=np.concatenate([part["gradient_norm"] for part in figures]),
        learning_rates=np.concatenate([part["learning_rate"] for part in figures]),
        weights={variable.name.split(":")[0]: variable.numpy() for variable in module.trainable_variables},
    )


def run(
    config: ExperimentConfig,
    task: ToyTask,
    run_dir: Path,
    *,
    tracker: FakeTracker | None = None,
    stop: StopRequest | None = None,
) -> Outcome:
    """A whole training run, as `mode=train` does it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    job = Job(
        config=config, task=task, run_dir=run_dir, tracker=tracker or started(FakeTracker()), stop=stop or StopRequest()
    )
    return train.run(job)


def started(tracker: TrackerT) -> TrackerT:
    """The tracker, listening."""
    tracker.start(RunInfo(experiment="toy", name="toy", run_dir=Path()))
    return tracker


def weights(prefix: str) -> dict[str, np.ndarray]:
    """Every number in a checkpoint, by its place; how often it was saved is no matter."""
    reader = tf.train.load_checkpoint(prefix)
    names = [
        name for name in reader.get_variable_to_shape_map() if not name.startswith(("save_counter", "_CHECKPOINT"))
    ]
    return {name: reader.get_tensor(name) for name in names}
