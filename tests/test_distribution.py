"""The number of devices changes nothing but the time: same losses, same weights, same predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import replicas
import toy

from mobilebert_exp.config import Distribution
from mobilebert_exp.errors import ConfigError
from mobilebert_exp.experiment import worker_index
from mobilebert_exp.runners.strategy import create_strategy

TOLERANCE = 1e-5


def check_trained_alike(found: str, expected: str) -> None:
    measured = replicas.measured()
    names = [name.removeprefix(f"{expected}:") for name in measured if name.startswith(f"{expected}:")]
    assert len(names) > 20
    for name in names:
        tolerance = TOLERANCE if name == "losses" else 10 * TOLERANCE
        np.testing.assert_allclose(
            measured[f"{found}:{name}"], measured[f"{expected}:{name}"], rtol=0, atol=tolerance, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_replicas_train_alike(count: int) -> None:
    """Ten steps on the same global batches, in one call on one device, in three calls on several."""
    assert len(replicas.measured()["train-1:losses"]) == 10
    check_trained_alike(f"train-{count}", "train-1")


@pytest.mark.slow
def test_one_device_trains_as_in_this_process(tmp_path: Path) -> None:
    config = toy.experiment(**toy.LOOPED)
    here = toy.steps(config, toy.task(config, tmp_path), calls=[10])
    np.testing.assert_allclose(replicas.measured()["train-1:losses"], here.losses, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_replicas_go_with_accumulation_and_xla() -> None:
    check_trained_alike("accumulated-xla-2", "train-1")


@pytest.mark.slow
def test_replicas_go_with_bfloat16() -> None:
    measured = replicas.measured()
    np.testing.assert_allclose(measured["bfloat16-2:losses"], measured["train-1:losses"][:3], rtol=0, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_replicas_evaluate_every_row_once_in_order(count: int) -> None:
    measured = replicas.measured()
    assert measured[f"evaluate-{count}:number"][:, 0].tolist() == list(range(21))
    for name in ("start", "end"):
        np.testing.assert_allclose(measured[f"evaluate-{count}:{name}"], measured[f"evaluate-1:{name}"], atol=1e-6)


@pytest.mark.slow
def test_workers_train_alike(tmp_path: Path) -> None:
    """Two processes that share each batch over the loopback interface."""
    one, two = replicas.cluster(tmp_path, workers=2)
    measured = replicas.measured()
    for name, value in one.items():
        np.testing.assert_array_equal(two[name], value, err_msg=name)
        tolerance = TOLERANCE if name == "losses" else 10 * TOLERANCE
        np.testing.assert_allclose(value, measured[f"train-1:{name}"], rtol=0, atol=tolerance, err_msg=name)


def test_several_workers_need_to_be_told_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    hardware = toy.experiment(hardware__distribution=Distribution.multi_worker).hardware
    with pytest.raises(ConfigError) as refused:
        create_strategy(hardware)
    assert str(refused.value) == (
        "hardware.distribution=multi_worker needs TF_CONFIG, which names the workers and this one's index; "
        "set it on every worker, or use hardware.distribution=mirrored"
    )


@pytest.mark.parametrize(("kind", "index", "number"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 2, 3)])
def test_there_is_one_chief(kind: str, index: int, number: int) -> None:
    """A cluster may name one apart from its workers; the others count on from it."""
    config = toy.experiment(hardware__distribution=Distribution.multi_worker)
    named = {"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1", "d:1"]}, "task": {"type": kind, "index": index}}
    assert worker_index(config, json.dumps(named)) == number


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {}, "task": {"type": "worker"}}'])
def test_a_tf_config_that_cannot_be_read_is_one_line(text: str) -> None:
    config = toy.experiment(hardware__distribution=Distribution.multi_worker)
    with pytest.raises(ConfigError, match=r"^TF_CONFIG cannot be read \(.+\); it is JSON, .+$"):
        worker_index(config, text)
