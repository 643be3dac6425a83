"""From `hardware` to a `tf.distribute` strategy; the one place, beside the entry point, that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Callable

import tensorflow as tf

from mobilebert_exp.config import Device, Distribution, HardwareConfig
from mobilebert_exp.errors import ConfigError


def create_strategy(hardware: HardwareConfig) -> tf.distribute.Strategy:
    """The strategy that `hardware` describes, its devices checked.

    Raises:
      ConfigError: the machine does not have what `hardware` asks for, or TensorFlow has already been set up otherwise.
    """
    # Grappler buys no speed on CPU (opt, 8 x 128: 0.98 to 1.03 of the step time), and costs 2 s before the first step.
    if hardware.device is Device.cpu:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    if hardware.device is Device.tpu:
        return _tpu(hardware)
    if hardware.threads is not None:
        _configure(lambda: tf.config.threading.set_intra_op_parallelism_threads(hardware.threads), "hardware.threads")
    if hardware.distribution is Distribution.multi_worker:
        return _multi_worker(hardware)
    names = _device_names(hardware)
    if hardware.distribution is Distribution.mirrored:
        return tf.distribute.MirroredStrategy(names, cross_device_ops=_cross_device_ops(hardware))
    return tf.distribute.OneDeviceStrategy(names[0])


def _device_names(hardware: HardwareConfig) -> list[str]:
    if hardware.device is Device.cpu:
        wanted = hardware.num_replicas or 1
        _logical_cpus(wanted)
        return [f"/cpu:{index}" for index in range(wanted)]
    found = len(tf.config.list_physical_devices("GPU"))
    wanted = hardware.num_replicas or found
    if found < max(wanted, 1):
        raise ConfigError(
            f"hardware={hardware.name} asks for {max(wanted, 1)} GPU(s) and TensorFlow sees {found}; "
            "set hardware=cpu, or install the driver and tensorflow[and-cuda]"
        )
    return [f"/gpu:{index}" for index in range(wanted)]


def _logical_cpus(count: int) -> None:
    """Splits the CPU into logical devices; TensorFlow allows that once, before its first operation."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    if count == 1 or len(tf.config.get_logical_device_configuration(cpu) or []) >= count:
        return
    split = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    _configure(lambda: tf.config.set_logical_device_configuration(cpu, split), "hardware.num_replicas")


def _configure(action: Callable[[], None], name: str) -> None:
    try:
        action()
    except RuntimeError:
        raise ConfigError(
            f"{name} cannot change after TensorFlow has started in this process; "
            "run the jobs of a sweep over it one by one"
        ) from None


def _cross_device_ops(hardware: HardwareConfig) -> tf.distribute.CrossDeviceOps | None:
    return tf.distribute.HierarchicalCopyAllReduce() if hardware.device is Device.cpu else None


def _multi_worker(hardware: HardwareConfig) -> tf.distribute.Strategy:
    if "TF_CONFIG" not in os.environ:
        raise ConfigError(
            "hardware.distribution=multi_worker needs TF_CONFIG, which names the workers and this one's index; "
            "set it on every worker, or use hardware.distribution=mirrored"
        )
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    _check_replicas(hardware, found=strategy.num_replicas_in_sync, place="cluster of TF_CONFIG")
    return strategy


def _check_replicas(hardware: HardwareConfig, *, found: int, place: str) -> None:
    if hardware.num_replicas not in (None, found):
        raise ConfigError(
            f"hardware.num_replicas={hardware.num_replicas} and the {place} has {found}; "
            f"set hardware.num_replicas={found}"
        )


def _tpu(hardware: HardwareConfig) -> tf.distribute.Strategy:
    name = hardware.tpu_name or os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=name, zone=hardware.tpu_zone, project=hardware.gcp_project
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except Exception as problem:  # the resolver raises whatever its transport raises
        reason = str(problem).splitlines()[0].split(". ")[0].rstrip(".") if str(problem) else type(problem).__name__
        raise ConfigError(
            f"hardware={hardware.name}: no TPU answers as {name!r} ({reason}); set hardware.tpu_name, tpu_zone and "
            "gcp_project, or use hardware=cpu; mode=plan shows the experiment without the hardware"
        ) from None
    strategy = tf.distribute.TPUStrategy(resolver)
    _check_replicas(hardware, found=strategy.num_replicas_in_sync, place=f"TPU {name!r}")
    return strategy
