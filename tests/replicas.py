"""What must not depend on the number of devices, measured in a process of its own: TensorFlow splits its CPU only once.

    python replicas.py FILE                   the toy task on 1, 2 and 4 logical CPUs, and what goes with it
    TF_CONFIG=… python replicas.py FILE 2     the toy task as one of two workers

`FILE` becomes an `.npz`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock

CHECKOUT = Path(__file__).resolve().parent.parent
COUNTS = (1, 2, 4)
shared_folder: list[Path] = []  # of the processes of one run of the tests, told by `conftest`
PARTS = 4  # pieces of a gradient that replicas share among them
OPTIMIZER_STEPS = 3


@functools.cache
def measured() -> Mapping[str, np.ndarray]:
    """Runs this file once, for all processes of the tests if they have a folder in common (`shared_folder`)."""
    with contextlib.ExitStack() as stack:
        folder = shared_folder[0] if shared_folder else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "measured.npz"
        stack.enter_context(FileLock(folder / "measured.lock"))
        if not file.exists():
            partial = folder / "partial.npz"
            subprocess.run([sys.executable, __file__, str(partial)], check=True, env=environment(), timeout=600)
            partial.rename(file)
        with np.load(file) as found:
            return dict(found)


def cluster(folder: Path, *, workers: int) -> list[Mapping[str, np.ndarray]]:
    """Trains the toy task in as many processes on the loopback interface; what each of them saw."""
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
    started = []
    for index in range(workers):
        spec = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, __file__, str(folder / f"{index}.npz"), str(workers)]
        started.append(subprocess.Popen(command, env=environment() | {"TF_CONFIG": json.dumps(spec)}))
    try:
        assert [process.wait(timeout=600) for process in started] == [0] * workers
    finally:
        for process in started:
            process.kill()
    found: list[Mapping[str, np.ndarray]] = []
    for index in range(workers):
        with np.load(folder / f"{index}.npz") as file:
            found.append(dict(file))
    return found


def environment() -> dict[str, str]:
    """Ours, with the checkout on the path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _hardware(count: int, **changes: object) -> dict[str, object]:
    from mobilebert_exp.config import Distribution

    kind = Distribution.one_device if count == 1 else Distribution.mirrored
    return {"hardware__distribution": kind, "hardware__num_replicas": count, **changes}


def _trained(folder: Path, *, calls: list[int] | None = None, **changes: object) -> dict[str, np.ndarray]:
    import toy

    config = toy.experiment(**toy.LOOPED, **changes)
    found = toy.steps(config, toy.task(config, folder), calls=calls or [10])
    return {"losses": found.losses, "gradient_norms": found.gradient_norms, **found.weights}


def _weighted(folder: Path, **changes: object) -> dict[str, np.ndarray]:
    """Three steps of the first phase of the task in phases, whose weights are uneven."""
    import phased
    import toy

    config = toy.experiment(**changes)
    found = toy.steps(config, phased.PhasedTask(config=config.task, folder=folder), calls=[3])
    return {"losses": found.losses, "gradient_norms": found.gradient_norms, **found.weights}


def _quantized(folder: Path, **changes: object) -> dict[str, np.ndarray]:
    """All that a run of quantisation-aware training leaves in its checkpoint, ranges included."""
    import toy

    from mobilebert_exp.config import FakeQuantization, Normalization

    model = {"normalization": Normalization.no_norm, "fake_quantization": FakeQuantization.per_channel}
    chosen = {**{f"model__{name}": value for name, value in model.items()}, "quantization__moving_average": 0.5}
    config = toy.experiment(**chosen, trainer__max_steps=3, **changes)
    run_dir = folder / "-".join(map(str, changes.values()))
    toy.run(config, toy.task(config, folder), run_dir)
    return toy.weights(str(run_dir / "checkpoints" / "ckpt-3"))


def _evaluated(folder: Path, count: int) -> dict[str, np.ndarray]:
    """The outputs of a fresh model for the 21 dev rows, as the evaluator hands them to the task."""
    import toy

    from mobilebert_exp.runners.evaluation import Evaluator
    from mobilebert_exp.runners.strategy import create_strategy

    class Listening(toy.ToyTask):
        def score(self, outputs, split, *, limit=None):  # type: ignore[no-untyped-def]
            heard.update(outputs)
            return super().score(outputs, split, limit=limit)

    heard: dict[str, np.ndarray] = {}
    config = toy.experiment(**_hardware(count))
    task = Listening(config=config.task, folder=folder)
    with create_strategy(config.hardware).scope():
        module = task.build(config.model, seed=config.seed, dtype="float32")
        Evaluator(task=task, module=module, config=config).evaluate()
    return heard


def pieces() -> dict[str, np.ndarray]:
    """Gradients in four pieces, for the optimizer on several devices."""
    rng = np.random.default_rng(6)
    return {
        "a/kernel": rng.standard_normal((PARTS, 3, 4), np.float32),
        "a/bias": rng.standard_normal((PARTS, 4), np.float32),
    }


def _optimized(count: int, *, kind: str, factors: Mapping[str, float] | None = None) -> dict[str, np.ndarray]:
    """An optimizer after three updates, each replica bringing its share of the pieces."""
    import tensorflow as tf
    import toy

    from mobilebert_exp.config import OptimizerConfig, OptimizerKind
    from mobilebert_exp.modeling import optimizers
    from mobilebert_exp.runners.strategy import create_strategy

    settings = OptimizerConfig(name=OptimizerKind[kind], learning_rate=0.1, gradient_clip_norm=0.5)
    strategy = create_strategy(toy.experiment(**_hardware(count)).hardware)
    with strategy.scope():
        variables = {name: tf.Variable(tf.ones(value.shape[1:]), name=name) for name, value in pieces().items()}
        optimizer = optimizers.create(variables, settings, total_steps=10, warmup_steps=2)

    @tf.function
    def update(step: tf.Tensor) -> tf.Tensor:
        def replica() -> tf.Tensor:
            mine = tf.distribute.get_replica_context().replica_id_in_sync_group
            share = PARTS // count
            gradients = [
                tf.reduce_sum(tf.constant(value)[mine * share : (mine + 1) * share], axis=0)
                for value in pieces().values()
            ]
            chosen = None if factors is None else {name: tf.constant(factor) for name, factor in factors.items()}
            return optimizer.apply(gradients, step=step, factors=chosen)["gradient_norm"]

        return strategy.reduce(tf.distribute.ReduceOp.MEAN, strategy.run(replica), axis=None)

    norms = [update(tf.constant(step)).numpy() for step in range(OPTIMIZER_STEPS)]
    return {"norms": np.array(norms), **{name: variable.numpy() for name, variable in variables.items()}}


def _measure(folder: Path) -> dict[str, np.ndarray]:
    from mobilebert_exp.config import DType

    found: dict[str, dict[str, np.ndarray]] = {}
    for count in COUNTS:
        found[f"train-{count}"] = _trained(folder, calls=[10] if count == 1 else [1, 3, 6], **_hardware(count))
        found[f"evaluate-{count}"] = _evaluated(folder, count)
        found[f"adamw-{count}"] = _optimized(count, kind="adamw")
    for count in (1, 2):
        found[f"lamb-{count}"] = _optimized(count, kind="lamb")
        for kind in ("adamw", "lamb"):
            found[f"{kind}-factors-{count}"] = _optimized(count, kind=kind, factors={"a/kernel": 0.5})
    both = {"trainer__gradient_accumulation_steps": 2, "hardware__xla": True}
    found["accumulated-xla-2"] = _trained(folder, **_hardware(2, **both))
    found["weighted-1"] = _weighted(folder)
    found["weighted-2"] = _weighted(folder, **_hardware(2))
    found["weighted-accumulated-xla-2"] = _weighted(folder, **_hardware(2, **both))
    found["quantized-1"] = _quantized(folder)
    found["quantized-2"] = _quantized(folder, **_hardware(2))
    found["quantized-accumulated-xla-2"] = _quantized(folder, **_hardware(2, **both))
    found["bfloat16-2"] = _trained(folder, calls=[3], **_hardware(2, hardware__dtype=DType.bfloat16))
    return {f"{run}:{name}": value for run, values in found.items() for name, value in values.items()}


def main(file: Path, *, workers: int) -> None:
    os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import tensorflow as tf

    from mobilebert_exp.config import Distribution

    with tempfile.TemporaryDirectory() as folder:
        if workers > 1:
            hardware = {"distribution": Distribution.multi_worker, "num_replicas": workers}
            found = _trained(Path(folder), **{f"hardware__{name}": value for name, value in hardware.items()})
        else:
            cpu = tf.config.list_physical_devices("CPU")[0]
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * max(COUNTS))
            found = _measure(Path(folder))
    np.savez(file, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), workers=int((*sys.argv, "1")[2]))
