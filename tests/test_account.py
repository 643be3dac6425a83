"""What becomes of a checkpoint's weights: the log tells it by name, a mismatch is one line, never a partial load."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf1_files
import toy
from fakes import FakeTracker

from mobilebert_exp.config import ExperimentConfig, ModelConfig, Normalization, leaves
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.modeling.checkpoints import native_weights, tf1
from mobilebert_exp.modeling.checkpoints.account import Account, Demand, account, summed_up
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.variables import classifier_variables, encoder_variables, span_variables
from mobilebert_exp.runners.base import Job, StopRequest
from mobilebert_exp.runners.evaluate import score_checkpoint
from mobilebert_exp.tasks.base import Split

MODEL = toy.model(num_layers=2, num_feedforward_networks=2)
SPAN = toy.ToyTask.head


def stored(weights: Weights, folder: Path, *, model: ModelConfig = MODEL) -> str:
    """A checkpoint of TensorFlow 1 of these weights, beside which nothing tells what they are."""
    tf1.write(dataclasses.replace(weights, model=leaves(model)), folder)
    (folder / "bert_config.json").unlink()
    return str(folder)


def job(config: ExperimentConfig, folder: Path) -> Job:
    return Job(
        config=config,
        task=toy.task(config, folder),
        run_dir=folder,
        tracker=toy.started(FakeTracker()),
        stop=StopRequest(),
    )


def experiment(checkpoint: str, **changes: Any) -> ExperimentConfig:
    return toy.experiment(
        **{"model": MODEL, "init__checkpoint": checkpoint, "trainer__max_steps": 1, "seed": 3, **changes}
    )


def settled(
    weights: Weights, *, model: ModelConfig = MODEL, head: str = SPAN, demand: Demand = Demand.encoder
) -> Account:
    wanted = [*encoder_variables(model), *span_variables(model)]
    return account(weights, wanted=wanted, model=model, head=head, demand=demand, source="init.checkpoint=X")


def refused(weights: Weights, **settings: Any) -> str:
    with pytest.raises(CheckpointError) as problem:
        settled(weights, **settings)
    assert "\n" not in str(problem.value)
    return str(problem.value).removeprefix("init.checkpoint=X ")


def test_training_starts_from_a_pretrained_checkpoint_of_other_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    weights = tf1_files.pretrained(MODEL)
    place = stored(weights, tmp_path / "tf1")
    config = experiment(place, task__optimizer__learning_rate=1e-12)
    toy.run(config, toy.task(config, tmp_path), tmp_path / "run")
    encoder = len(encoder_variables(MODEL))
    (line,) = (record.message for record in caplog.records if record.message.startswith("init.checkpoint="))
    assert line == (
        f"init.checkpoint={place}: loaded {encoder} variables, newly initialised 2 (heads/span/bias, "
        "heads/span/kernel), ignored 8 (heads/masked_lm/extra/table, heads/masked_lm/norm/beta, "
        "heads/masked_lm/norm/gamma, heads/masked_lm/output/bias, heads/masked_lm/transform/bias, "
        "heads/masked_lm/transform/kernel, heads/next_sentence/bias, heads/next_sentence/kernel)"
    )
    trained = native_weights.read(tmp_path / "run" / "last").values
    for spec in encoder_variables(MODEL):
        np.testing.assert_allclose(trained[spec.name], weights.values[spec.name], atol=1e-6, err_msg=spec.name)


def test_a_checkpoint_of_other_code_is_evaluated_as_ours_with_the_same_numbers(tmp_path: Path) -> None:
    weights = tf1_files.pretrained(MODEL, span=True)
    place = stored(weights, tmp_path / "tf1")
    native_weights.write(dataclasses.replace(weights, model=leaves(MODEL), head=SPAN), tmp_path / "native")
    found = [
        score_checkpoint(job(experiment(where), tmp_path / f"{number}"), Split.dev)[0]
        for number, where in enumerate((place, str(tmp_path / "native")))
    ]
    assert found[0].files == found[1].files
    (tmp_path / "bare").mkdir()
    bare = stored(tf1_files.pretrained(MODEL), tmp_path / "bare" / "tf1")
    with pytest.raises(CheckpointError) as problem:
        score_checkpoint(job(experiment(bare), tmp_path / "2"), Split.dev)
    assert str(problem.value) == (
        f"init.checkpoint={bare} lacks heads/span/kernel; name a run of this task, or train one from it with mode=train"
    )


@pytest.mark.slow
def test_a_partial_load_must_be_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    values = dict(tf1_files.pretrained(MODEL).values)
    del values["layers/ffn_1/norm/gamma"]
    values["embeddings/position/table"] = values["embeddings/position/table"][:12]
    place = stored(Weights(values=values), tmp_path / "tf1")
    with pytest.raises(CheckpointError, match=r"was trained with model.max_positions=12, not 16; .*init.strict=false"):
        toy.run(experiment(place), toy.task(experiment(place), tmp_path), tmp_path / "strict")
    config = experiment(place, init__strict=False)
    toy.run(config, toy.task(config, tmp_path), tmp_path / "run")
    assert "newly initialised 4 (embeddings/position/table, heads/span/bias, heads/span/kernel, " in caplog.text
    with pytest.raises(CheckpointError, match=r"; choose a whole one$|model.max_positions=12$"):
        score_checkpoint(job(config, tmp_path), Split.dev)


OTHER_SIZES: dict[str, Any] = {
    "vocab_size": 29,
    "embedding_size": 4,
    "hidden_size": 24,
    "max_positions": 32,
    "type_vocab_size": 3,
    "num_layers": 3,
    "intra_bottleneck_size": 12,
    "intermediate_size": 20,
    "num_feedforward_networks": 3,
    "classifier_activation": True,
    "use_bottleneck_attention": True,
    "key_query_shared_bottleneck": False,
}


@pytest.mark.parametrize("field", OTHER_SIZES)
def test_another_architecture_is_told_by_the_setting(field: str) -> None:
    """Whether the source states it or shapes alone tell."""
    other = dataclasses.replace(MODEL, **{field: OTHER_SIZES[field]})
    weights = tf1_files.pretrained(other)
    there, here = (str(leaves(model)[field]).lower() for model in (other, MODEL))
    told = f"was trained with model.{field}={there}, not {here}; choose the architecture that it is of"
    assert refused(weights).startswith(told)
    stated = refused(dataclasses.replace(weights, model=leaves(dataclasses.replace(other, name="other"))))
    assert stated == f"{told} (model=other), or model.{field}={there}; init.strict=false starts with what fits"


def test_what_no_shape_tells_is_told_by_what_the_source_states() -> None:
    weights = tf1_files.pretrained(MODEL)
    other = leaves(dataclasses.replace(MODEL, normalization=Normalization.no_norm))
    assert refused(dataclasses.replace(weights, model=other)).startswith(
        "was trained with model.normalization=no_norm, not layer_norm; "
    )
    masked = dataclasses.replace(weights, model={**leaves(MODEL), "attention_mask_value": -1e9})
    assert settled(masked).warnings == (
        "init.checkpoint=X was trained with model.attention_mask_value=-1000000000.0, not -10000.0",
    )
    regularised = dataclasses.replace(weights, model={**leaves(MODEL), "hidden_dropout": 0.5, "name": "x"})
    assert settled(regularised).warnings == ()


def test_numbers_that_are_none_are_refused() -> None:
    values = dict(tf1_files.pretrained(MODEL).values)
    values["layers/attention/norm/beta"] = np.full_like(values["layers/attention/norm/beta"], np.nan)
    assert refused(Weights(values=values)) == (
        "has numbers in layers/attention/norm/beta that are infinite or none; choose another"
    )


def test_what_the_model_has_no_place_for_is_no_silent_loss() -> None:
    values = {**tf1_files.pretrained(MODEL).values, "layers/adapter/kernel": np.zeros((2, 3), np.float32)}
    assert refused(Weights(values=values)).startswith("has layers/adapter/kernel, for which this model has no place; ")
    assert "layers/adapter/kernel" in settled(Weights(values=values), demand=Demand.some).ignored


def test_nothing_at_all_fits() -> None:
    weights = Weights(values={"layers/bottleneck_input/kernel": np.zeros((9, 9, 9), np.float32)})
    assert (
        refused(weights, demand=Demand.some) == "has nothing that fits this model; give the architecture that it is of"
    )


@pytest.mark.parametrize(
    ("head", "outputs", "taken"), [("", 2, True), ("", 3, False), ("other", 2, False), (SPAN, 2, True)]
)
def test_a_head_is_taken_where_it_answers_the_same(head: str, outputs: int, taken: bool) -> None:
    """One that does not say what it answers is taken by its shape."""
    specs = [*encoder_variables(MODEL), *classifier_variables(MODEL, num_outputs=outputs)]
    weights = Weights(values=tf1_files.values(specs), head=head)
    wanted = [*encoder_variables(MODEL), *classifier_variables(MODEL, num_outputs=2)]
    found = account(weights, wanted=wanted, model=MODEL, head=SPAN, demand=Demand.encoder, source="X")
    assert found.initialised == (() if taken else ("heads/classifier/kernel", "heads/classifier/bias"))
    if not taken:
        with pytest.raises(CheckpointError):
            account(weights, wanted=wanted, model=MODEL, head=SPAN, demand=Demand.whole, source="X")


def test_half_a_head_is_no_head() -> None:
    values = dict(tf1_files.pretrained(MODEL, span=True).values)
    del values["heads/span/bias"]
    assert refused(Weights(values=values)).startswith("lacks heads/span/bias; choose a whole one")


def test_names_on_one_line() -> None:
    slots = [f"bert/x{number}/{slot}" for number in range(5) for slot in ("adam_m", "adam_v")]
    assert summed_up([*slots, "global_step"]) == "*/adam_m × 5, */adam_v × 5, global_step"
    assert summed_up([f"optimizer/x{number}" for number in range(5)]) == "optimizer/* × 5"
    assert summed_up([f"quantizers/layers/{name}/norm" for name in "abcde"]) == "quantizers/* × 5"
    assert summed_up(f"heads/masked_lm/{name}" for name in "abcd") == ", ".join(f"heads/masked_lm/{x}" for x in "abcd")


def test_a_run_of_ours_ignores_its_optimizer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = toy.experiment(trainer__max_steps=1)
    toy.run(first, toy.task(first, tmp_path), tmp_path / "first")
    config = toy.experiment(trainer__max_steps=1, seed=1, init__checkpoint=str(tmp_path / "first" / "last"))
    toy.run(config, toy.task(config, tmp_path), tmp_path / "second")
    (line,) = (record.message for record in caplog.records if record.message.startswith("init.checkpoint="))
    wanted = len(encoder_variables(first.model)) + len(span_variables(first.model))
    assert re.search(rf"loaded {wanted} variables, newly initialised 0, ignored [\d,]+ \(.*optimizer/\* × \d+", line), (
        line
    )


def test_no_variable_is_touched_that_is_not_loaded(tmp_path: Path) -> None:
    weights = tf1_files.pretrained(MODEL)
    module = toy.task(experiment("x"), tmp_path).build(MODEL, seed=4, dtype="float32")
    before = tf.identity(module.weights["heads/span/kernel"])
    from mobilebert_exp.modeling.checkpoints.account import assign

    assign(module, weights, settled(weights))
    np.testing.assert_array_equal(module.weights["heads/span/kernel"], before)
    for name, variable in module.encoder.weights.items():
        np.testing.assert_array_equal(variable, weights.values[name], err_msg=name)
