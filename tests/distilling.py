"""A tiny student and its teacher, some updates of each phase, and the same updates in NumPy float64.

    python distilling.py FILE       updates on one logical CPU and on two, as an `.npz`

Shapes: as in `numpy_mobilebert`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy_distillation as oracle
from numpy_mobilebert import Arrays, Model, gradients

from mobilebert_exp.config import (
    Distribution,
    ExperimentConfig,
    LayerLoop,
    ModelConfig,
    Normalization,
    OptimizerConfig,
    OptimizerKind,
)
from mobilebert_exp.modeling.transfer import LowerLayers, Padding, Strategy, TransferConfig

LAYERS, BATCH, LENGTH, PLACES, VOCABULARY = 2, 4, 6, 2, 13
STEPS_PER_LAYER = 2  # of which the first has rate 0, as in every turn
PD_STEPS = 1


def architecture(**changes: Any) -> ModelConfig:
    """Small enough for a derivative of every number."""
    import toy

    small = {
        **{"vocab_size": VOCABULARY, "embedding_size": 4, "hidden_size": 8, "intra_bottleneck_size": 4},
        **{"intermediate_size": 6, "num_layers": LAYERS, "num_heads": 2, "max_positions": LENGTH},
        "normalization": Normalization.no_norm,
    }
    return dataclasses.replace(toy.model(), **{**small, **changes})


def teacher_architecture(**changes: Any) -> ModelConfig:
    wide = {"intra_bottleneck_size": 12, "normalization": Normalization.layer_norm, "num_layers": LAYERS + 1}
    return architecture(**{**wide, "key_query_shared_bottleneck": False, "classifier_activation": True, **changes})


def experiment(
    *, replicas: int = 1, loop: LayerLoop = LayerLoop.scan, xla: bool = False, **changes: Any
) -> ExperimentConfig:
    """Every layer's turn, then one update of PD; `changes` are of `task.transfer`."""
    import toy

    from mobilebert_exp.tasks import distill

    transfer = {"steps": LAYERS * STEPS_PER_LAYER, "layer_map": [1, 3], "mean_factor": 50.0, **changes}
    task = distill.Config(
        kind="distill",
        name="distill",
        max_seq_length=LENGTH,
        max_predictions_per_seq=PLACES,
        global_batch_size=BATCH,
        eval_batch_size=BATCH,
        num_train_steps=PD_STEPS,
        teacher=teacher_architecture(),
        transfer=TransferConfig(**transfer),
        ground_truth_ratio=0.3,
        temperature=2.0,
        # epsilon: a bias that no softmax heeds has a gradient of pure rounding, which must move nothing
        optimizer=OptimizerConfig(name=OptimizerKind.lamb, learning_rate=0.02, epsilon=1e-3, warmup_steps=0),
    )
    kind = Distribution.one_device if replicas == 1 else Distribution.mirrored
    return toy.experiment(
        task=task,
        model=architecture(layer_loop=loop),
        hardware__distribution=kind,
        hardware__num_replicas=replicas,
        hardware__xla=xla,
        trainer__max_steps=None,
    )


@functools.cache
def batch() -> dict[str, np.ndarray]:
    """The original's columns; every row is padded and masked differently."""
    rng = np.random.default_rng(3)
    used = np.arange(LENGTH) < np.array([[LENGTH], [4], [3], [5]])
    return {
        "input_ids": (rng.integers(1, VOCABULARY, (BATCH, LENGTH)) * used).astype(np.int32),
        "input_mask": used.astype(np.int32),
        "segment_ids": ((np.arange(LENGTH) >= 3) * used).astype(np.int32),
        "masked_lm_positions": np.array([[1, 4], [2, 0], [1, 2], [0, 0]], np.int32),
        "masked_lm_ids": rng.integers(0, VOCABULARY, (BATCH, PLACES)).astype(np.int32),
        "masked_lm_weights": np.array([[1, 1], [1, 0], [1, 1], [0, 0]], np.float32),
        "next_sentence_labels": np.array([[0], [1], [1], [0]], np.int32),
    }


def start(config: ModelConfig, *, seed: int) -> dict[str, np.ndarray]:
    """Weights large enough for every part of a model to matter."""
    from mobilebert_exp.modeling.variables import encoder_variables, pretraining_variables

    rng = np.random.default_rng(seed)
    return {
        spec.name: (rng.standard_normal(spec.shape) * 0.5 + spec.name.endswith("/gamma")).astype(np.float32)
        for spec in encoder_variables(config) + pretraining_variables(config)
    }


def updates(config: ExperimentConfig) -> dict[str, np.ndarray]:
    """Figures of every update, and the weights after each phase."""
    import tensorflow as tf

    from mobilebert_exp.runners.schedule import planned
    from mobilebert_exp.runners.strategy import create_strategy

    found: dict[str, np.ndarray] = {}
    with create_strategy(config.hardware).scope():
        task, student = _lesson(config)
        step = tf.Variable(
            0, dtype=tf.int64, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, name="step"
        )
        for phase in planned(config, task):
            loop = _loop(phase, student, step, config)
            calls = [loop.train(tf.constant(1)) for _ in range(phase.phase.steps)]
            found |= {f"{phase.number}:{name}": np.concatenate([each[name] for each in calls]) for name in calls[0]}
            found[f"{phase.number}:traces"] = np.array(loop._loop.experimental_get_tracing_count())
            found |= {f"{phase.number}:{name}": variable.numpy() for name, variable in _variables(student).items()}
    return found


def _variables(model: Any) -> dict[str, Any]:
    return {**model.encoder.weights, **model.weights}


def _lesson(config: ExperimentConfig) -> tuple[Any, Any]:
    """The task with its teacher, and the student."""
    from mobilebert_exp.modeling import transfer
    from mobilebert_exp.modeling.lesson import Lesson
    from mobilebert_exp.modeling.pretrainer import PretrainingModel
    from mobilebert_exp.tasks import distill

    assert isinstance(config.task, distill.Config)
    task = distill.create(config.task, data_root=None, cache_dir="")
    student, teacher = PretrainingModel(config.model), PretrainingModel(config.task.teacher)
    for model, seed in ((student, 1), (teacher, 2)):
        values = start(model.encoder.config, seed=seed)
        for name, variable in _variables(model).items():
            variable.assign(values[name])
    matching = transfer.layer_map(config.task.transfer, student=config.model, teacher=config.task.teacher)
    task.student = config.model
    task.lesson = Lesson(teacher, matching=matching, config=config.task.transfer)
    return task, student


def _loop(phase: Any, student: Any, step: Any, config: ExperimentConfig) -> Any:
    """The trainer of a phase, always on the one batch."""
    import tensorflow as tf

    from mobilebert_exp.modeling import optimizers
    from mobilebert_exp.runners.loop import TrainingLoop

    optimizer = optimizers.create(
        {variable.name.split(":")[0]: variable for variable in student.trainable_variables},
        phase.optimizer,
        total_steps=phase.optimizer_steps,
        warmup_steps=phase.warmup_steps,
    )
    batches = tf.data.Dataset.from_tensors(batch()).repeat().unbatch().batch(BATCH, drop_remainder=True)
    return TrainingLoop(
        planned=phase,
        module=student,
        optimizer=optimizer,
        step=step,
        batches=tf.distribute.get_strategy().experimental_distribute_dataset(batches),
        config=config,
    )


@dataclasses.dataclass(kw_only=True, frozen=True)
class Expected:
    """What NumPy finds after a phase: the loss and the norm of every update that moves something, and the weights."""

    losses: dict[int, float]
    norms: dict[int, float]
    weights: Arrays


@functools.cache
def expected(lower: LowerLayers, padding: Padding, strategy: Strategy) -> tuple[Expected, Expected]:
    """Of KT, and of PD after it."""
    config = experiment(lower_layers=lower, padding=padding, strategy=strategy)
    taught = _after_transfer(config)
    return taught, _after_answers(config, taught.weights)


def _teacher(config: ExperimentConfig) -> Model:
    teacher = config.task.teacher  # type: ignore[attr-defined]
    return Model(_wide(start(teacher, seed=2)), teacher)


def _student(config: ExperimentConfig) -> Model:
    return Model(_wide(start(config.model, seed=1)), config.model)


def _wide(weights: Arrays) -> dict[str, np.ndarray]:
    return {name: value.astype(np.float64) for name, value in weights.items()}


def _inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return batch()["input_ids"], batch()["input_mask"], batch()["segment_ids"]


def _after_transfer(config: ExperimentConfig) -> Expected:
    transfer: TransferConfig = config.task.transfer  # type: ignore[attr-defined]
    theirs = _teacher(config).encode(*_inputs())
    lamb, losses, norms = oracle.Lamb(start(config.model, seed=1), config.task.optimizer), {}, {}
    is_frozen = transfer.lower_layers is LowerLayers.frozen and transfer.strategy is Strategy.progressive
    for step in range(transfer.steps):
        factors = oracle.rates(transfer, step, layers=LAYERS)
        turns = [step // STEPS_PER_LAYER] if transfer.strategy is Strategy.progressive else list(range(LAYERS))
        if any(factors):
            held = lamb.weights

            def loss(weights: Arrays, turns: list[int] = turns, held: Arrays = held) -> np.ndarray:
                ours = Model({**held, **weights}, config.model).encode(*_inputs())
                assert transfer.layer_map is not None
                taught = [
                    oracle.transfer(
                        ours, theirs, _inputs()[1], layer=turn, matching=transfer.layer_map[turn] - 1, config=transfer
                    )
                    for turn in turns
                ]
                return np.sum([oracle.weighted(each, transfer, layers=LAYERS) for each in taught])

            asked = turns if is_frozen else range(max(turns) + 1)
            found = gradients(loss, held, layers=asked, others=not is_frozen)
            losses[step] = float(loss(held))
        else:
            found = {name: np.zeros_like(value) for name, value in lamb.weights.items()}
        norm = lamb.update(found, rate=config.task.optimizer.learning_rate, factors=factors)
        if any(factors):
            norms[step] = norm
    return Expected(losses=losses, norms=norms, weights=_wide(lamb.weights))


def _after_answers(config: ExperimentConfig, weights: Arrays) -> Expected:
    """With moments that start anew."""
    task: Any = config.task
    places, teacher = batch()["masked_lm_positions"], _teacher(config)
    answers_BPV = teacher.words(teacher.encode(*_inputs()), places)

    def loss(weights: Arrays) -> np.ndarray:
        student = Model(weights, config.model)
        encoded = student.encode(*_inputs())
        return oracle.pretraining(
            student.words(encoded, places), student.follows(encoded), batch(), teacher_BPV=answers_BPV,
            ratio=task.ground_truth_ratio, temperature=task.temperature,
        )  # fmt: skip

    lamb = oracle.Lamb(weights, task.optimizer)
    found = gradients(loss, _wide(weights), layers=range(LAYERS), others=True)
    norm = lamb.update(found, rate=task.optimizer.learning_rate, factors=None)
    return Expected(losses={0: float(loss(weights))}, norms={0: norm}, weights=lamb.weights)


def losses(config: ExperimentConfig, given: Arrays) -> tuple[list[float], list[float]]:
    """On a batch, of every layer's turn and of PD: ours, and NumPy's."""
    import tensorflow as tf

    from mobilebert_exp.runners.schedule import planned

    with tf.device("/CPU:0"):
        task, student = _lesson(config)
        tensors, found = {name: tf.constant(value) for name, value in given.items()}, []
        for phase in planned(config, task):
            objective, totals = phase.phase.objective, phase.phase.objective.totals(tensors)
            for step in range(1, phase.phase.steps + 1, STEPS_PER_LAYER):
                loss, _ = objective.loss(
                    student, tensors, totals=totals, step=tf.constant(step, tf.int64), seed=tf.constant([0, 0])
                )
                found.append(float(loss))
    return found, [*_turn_losses(config, given), _answer_loss(config, given)]


def _turn_losses(config: ExperimentConfig, given: Arrays) -> list[float]:
    transfer: TransferConfig = config.task.transfer  # type: ignore[attr-defined]
    assert transfer.layer_map is not None
    inputs = given["input_ids"], given["input_mask"], given["segment_ids"]
    ours, theirs = _student(config).encode(*inputs), _teacher(config).encode(*inputs)
    taught = (
        oracle.transfer(ours, theirs, inputs[1], layer=layer, matching=matching - 1, config=transfer)
        for layer, matching in enumerate(transfer.layer_map)
    )
    return [float(oracle.weighted(each, transfer, layers=LAYERS)) for each in taught]


def _answer_loss(config: ExperimentConfig, given: Arrays) -> float:
    task: Any = config.task
    inputs, places = (given["input_ids"], given["input_mask"], given["segment_ids"]), given["masked_lm_positions"]
    student, teacher = _student(config), _teacher(config)
    encoded = student.encode(*inputs)
    loss = oracle.pretraining(
        student.words(encoded, places), student.follows(encoded), given,
        teacher_BPV=teacher.words(teacher.encode(*inputs), places), ratio=task.ground_truth_ratio,
        temperature=task.temperature,
    )  # fmt: skip
    return float(loss)


@functools.cache
def measured() -> Mapping[str, np.ndarray]:
    """Updates on one logical CPU and on two, in a process of their own: TensorFlow splits its CPU only once."""
    import replicas

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured.npz"
        subprocess.run([sys.executable, __file__, str(file)], check=True, env=replicas.environment(), timeout=600)
        with np.load(file) as found:
            return dict(found)


def main(file: Path) -> None:
    os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    found: Any = updates(experiment(replicas=2))
    np.savez(file, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
