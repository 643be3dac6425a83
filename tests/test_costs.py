"""Operations and memory of a training run, against figures worked out elsewhere or by hand."""

from __future__ import annotations

from typing import Any

import pytest

from mobilebert_exp.composition import compose
from mobilebert_exp.config import DType
from mobilebert_exp.modeling import costs
from mobilebert_exp.modeling.transfer import LowerLayers, Semantics, Strategy, TransferConfig
from mobilebert_exp.tasks import distill
from mobilebert_exp.tasks._budget import Budget

TEACHER, OPT = compose(["model=teacher"]).model, compose(["model=opt"]).model


@pytest.mark.parametrize(("model", "billions"), [("opt", 5.7), ("tiny", 3.1)])
def test_operations_are_about_the_paper_s(model: str, billions: float) -> None:
    """Table 5: a forward pass at 128 tokens."""
    assert costs.encoder_flops(compose([f"model={model}"]).model, length=128) == pytest.approx(billions * 1e9, rel=0.06)


def test_a_block_by_hand() -> None:
    """opt, 10 tokens: 823,296 weights in kernels; scores and weighted values, each 10 x 10 x 128."""
    kernels = 3 * 512 * 128 + 2 * 128 * 128 + 128 * 128 + 4 * 2 * 128 * 512 + 128 * 512
    assert costs.block_flops(OPT, length=10) == 2 * 10 * kernels + 2 * 2 * 10 * 10 * 128


def test_weights_and_moments_by_hand() -> None:
    assert costs.model_bytes(TEACHER, trained=False) == 4 * 306_483_516
    assert costs.model_bytes(OPT, trained=True) == 16 * 36_597_564


def _turn(**changes: object) -> int:
    budget = Budget(
        student=OPT,
        teacher=TEACHER,
        config=TransferConfig(**changes),  # type: ignore[arg-type]
        places=20,
        asks=True,
        micro_batch=8,
        dtype=DType.float32,
    )
    return budget._turn(23, 23, length=128)


def test_what_frozen_layers_and_the_original_s_mistake_cost() -> None:
    ours, theirs = (costs.encoder_flops(model, length=128) for model in (OPT, TEACHER))
    assert _turn() == 3 * ours + theirs
    assert _turn(lower_layers=LowerLayers.frozen) == ours + theirs + 2 * costs.block_flops(OPT, length=128)
    assert _turn(semantics=Semantics.tf1_exact) == _turn(), "the last turn needs all of the teacher anyway"


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_plan_adds_up(strategy: Strategy) -> None:
    """Knowledge transfer and the teacher's answers are all there is; one phase of both has no turns."""
    task = compose(["task=distill", f"task.transfer.strategy={strategy.name}"]).task
    planned: Any = distill.create(task, data_root=None, cache_dir="")  # type: ignore[arg-type]
    config = compose(["task=distill", f"task.transfer.strategy={strategy.name}", "hardware=tpu_v3_256"])
    rows = {
        name.strip(): value
        for name, value in planned.plan(config, phases=[each for each in planned.phases() if each.steps])
    }
    parts = [float(rows[name]) for name in ("knowledge transfer", "pre-training distillation")]
    assert float(rows["FLOPs"]) == pytest.approx(sum(parts), rel=0.01)
    turns = [value for name, value in rows.items() if name.startswith(("layer ", "all layers"))]
    assert len(turns) == {Strategy.progressive: 24, Strategy.joint: 1}.get(strategy, 0)
    assert (parts[0] > 0) is bool(turns)
