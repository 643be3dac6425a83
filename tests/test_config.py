"""The typed configuration: presets are whole and as the reference says, compositions check themselves."""

from __future__ import annotations

import dataclasses
import enum
import json
import shutil
from pathlib import Path

import hydra
import pytest
import yaml
from command_line import here
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

import mobilebert_exp
from mobilebert_exp import config as schema
from mobilebert_exp.composition import compose
from mobilebert_exp.config import ExperimentConfig, ModelConfig, leaves
from mobilebert_exp.errors import ConfigError
from mobilebert_exp.groups import options, shipped
from mobilebert_exp.modeling.variables import encoder_variables, parameters

PARAMETERS = {
    "opt": 24_581_888,
    "qat": 24_581_888,
    "base": 24_581_888,
    "tiny": 15_485_696,
    "teacher": 294_467_840,  # with its pooler
    "multilingual": 35_977_088,
}
PER_BLOCK = {"opt": 842_240, "tiny": 463_232, "teacher": 12_076_544}
BATCHES = ["task.global_batch_size=512", "task.eval_batch_size=256"]  # what 256 cores can share
ARCHITECTURE = [field.name for field in dataclasses.fields(ModelConfig) if field.default == schema.MISSING]
MODELS = sorted(file.stem for file in (shipped("conf") / "model").glob("*.yaml"))


@pytest.mark.parametrize("model", MODELS)
def test_a_model_composes_with_every_task_and_hardware(model: str) -> None:
    """Each with each task, and beside it another hardware each time: every pair of two groups, not every triple."""
    hardwares, first = options("hardware"), MODELS.index(model)
    assert len(hardwares) <= len(options("task"))
    for number, task in enumerate(options("task")):
        hardware = hardwares[(first + number) % len(hardwares)]
        found = compose([f"model={model}", f"task={task}", f"hardware={hardware}", *BATCHES])
        assert (found.model.name, found.hardware.name) == (model, hardware)
        assert found.task.name.startswith(task)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_file_states_every_architecture_field_itself(model: str) -> None:
    stated = yaml.safe_load((shipped("conf") / "model" / f"{model}.yaml").read_text(encoding="utf-8"))
    assert stated.pop("defaults") == ["schema", "_self_"]
    assert len(ARCHITECTURE) == 20
    for name in ARCHITECTURE:
        rest = {key: value for key, value in stated.items() if key != name}
        with pytest.raises(MissingMandatoryValue, match=f"missing mandatory value: {name}"):
            OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), rest))


def test_a_line_deleted_from_a_model_file_is_missed_by_name(tmp_path: Path) -> None:
    text = (shipped("conf") / "model" / "opt.yaml").read_text(encoding="utf-8")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(text.replace("num_feedforward_networks: 4\n", ""), encoding="utf-8")
    ended = here("--config-dir", str(tmp_path), "model=mine", "mode=plan", f"cache_dir={tmp_path}")
    assert ended.err == (
        "error: model.num_feedforward_networks has no value; set it on the command line or in its YAML file\n"
    )
    assert ended.code == 2


@pytest.mark.parametrize(("model", "expected"), PARAMETERS.items())
def test_parameters_equal_the_reference(model: str, expected: int) -> None:
    found = compose([f"model={model}"]).model
    assert parameters(encoder_variables(found)) == expected
    assert f"{expected:,} encoder parameters" in (shipped("conf") / "model" / f"{model}.yaml").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(("model", "expected"), PER_BLOCK.items())
def test_parameters_of_a_block_equal_the_reference(model: str, expected: int) -> None:
    found = compose([f"model={model}"]).model
    one_more = dataclasses.replace(found, num_layers=found.num_layers + 1)
    assert parameters(encoder_variables(one_more)) - parameters(encoder_variables(found)) == expected


def test_without_the_shared_bottleneck_opt_has_the_papers_25_million() -> None:
    found = compose(["model=opt", "model.key_query_shared_bottleneck=false"]).model
    assert round(parameters(encoder_variables(found)) / 1e6, 2) == 25.36


def test_architectures_are_those_of_the_reference() -> None:
    models = {name: compose([f"model={name}"]).model for name in PARAMETERS}
    opt = leaves(models["opt"])
    rounded = {"hidden_act": "relu6", "fake_quantization": "per_channel"}
    assert opt | {"name": "qat", **rounded} == leaves(models["qat"])
    assert opt | {"name": "base", "hidden_act": "gelu", "normalization": "layer_norm"} == leaves(models["base"])
    assert opt | {"name": "multilingual", "vocab_size": 119547} == leaves(models["multilingual"])
    smaller = {"num_feedforward_networks": 2, "use_bottleneck_attention": True, "key_query_shared_bottleneck": False}
    assert opt | {"name": "tiny", **smaller} == leaves(models["tiny"])
    wider = {"intra_bottleneck_size": 1024, "intermediate_size": 4096, "num_feedforward_networks": 1}
    other = {"hidden_act": "gelu", "normalization": "layer_norm", "hidden_dropout": 0.1, "classifier_activation": True}
    plain = {"name": "teacher", "key_query_shared_bottleneck": False}
    assert opt | plain | wider | other == leaves(models["teacher"])
    assert opt["attention_mask_value"] == -10000.0 and opt["attention_dropout"] == 0.1 and opt["hidden_dropout"] == 0.0


def _override(key: str, value: object) -> str:
    """A leaf as the command line gives it."""
    return f"{key}={'null' if value is None else json.dumps(value)}"


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["model=teacher", "task=squad_v2", "hardware=tpu_v3_256", "tracking=none", *BATCHES], id="groups"),
        pytest.param(["+preset=starter", "seed=7", "data_root='a b/c,d'", "init.checkpoint=runs/x"], id="preset"),
    ],
)
def test_leaves_as_overrides_compose_the_same_experiment(overrides: list[str]) -> None:
    found = compose(overrides)
    again = compose([_override(key, value) for key, value in leaves(found).items()])
    assert again == found
    assert leaves(again) == leaves(found)


@settings(max_examples=20)
@given(st.dictionaries(st.text("abc", min_size=1), st.text(), max_size=3), st.floats(1e-6, 1.0))
def test_leaves_hold_every_value_once_and_enums_by_name(tags: dict[str, str], rate: float) -> None:
    base = _starter()
    optimizer = dataclasses.replace(base.task.optimizer, learning_rate=rate)
    found = leaves(
        dataclasses.replace(
            base,
            tracking=dataclasses.replace(base.tracking, tags=tags),
            task=dataclasses.replace(base.task, optimizer=optimizer),
        )
    )
    assert found["task.optimizer.learning_rate"] == rate
    shown = {key.removeprefix("tracking.tags."): value for key, value in found.items() if "tracking.tags." in key}
    assert shown == tags
    assert ("tracking.tags" in found) == (not tags)
    assert not any(isinstance(value, enum.Enum) or dataclasses.is_dataclass(value) for value in found.values())


_STARTER: list[ExperimentConfig] = []


def _starter() -> ExperimentConfig:
    """One starter experiment for every example that is drawn."""
    if not _STARTER:
        _STARTER.append(compose(["+preset=starter"]))
    return _STARTER[0]


def test_enums_are_called_what_they_hold() -> None:
    kinds = [kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, enum.Enum)]
    assert len(kinds) >= 10
    for kind in kinds:
        assert [member.name for member in kind] == [member.value for member in kind], kind


@pytest.mark.parametrize(
    "overrides",
    [[], ["model=opt", "task=squad_v2", "hardware=gpu"], ["+preset=starter", "seed=3", "+tracking.tags.why=look"]],
    ids=["nothing", "groups", "preset"],
)
def test_compose_equals_what_cfg_job_shows(overrides: list[str]) -> None:
    shown = yaml.safe_load(here("--cfg", "job", *overrides).out)
    assert OmegaConf.to_container(OmegaConf.structured(compose(overrides)), enum_to_str=True) == shown


def test_compose_is_public_and_leaves_a_running_hydra_alone() -> None:
    with hydra.initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        assert mobilebert_exp.compose(["model=tiny"]).model.name == "tiny"
        with pytest.raises(ConfigError, match="did you mean model"):
            mobilebert_exp.compose(["modl=tiny"])
        assert hydra.compose("config", overrides=["model=qat"]).model.name == "qat"


def test_a_users_own_folder_adds_options(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    shutil.copy(shipped("conf") / "model" / "tiny.yaml", tmp_path / "model" / "mine.yaml")
    ended = here("--config-dir", str(tmp_path), "--cfg", "job", "model=mine", "model.num_layers=6")
    assert yaml.safe_load(ended.out)["model"]["num_layers"] == 6


def test_a_home_directory_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    found = compose([f"{key}='~/{key}'" for key in ("output_dir", "data_root", "init.checkpoint", "cache_dir")])
    assert (found.output_dir, found.data_root) == ("/home/someone/output_dir", "/home/someone/data_root")
    assert (found.init.checkpoint, found.cache_dir) == ("/home/someone/init.checkpoint", "/home/someone/cache_dir")


def test_batches_are_checked_again_when_devices_are_counted() -> None:
    found = compose(["hardware=gpu", "task.global_batch_size=12"])
    found.check_batches(num_replicas=4)
    with pytest.raises(
        ConfigError, match=r"^task.global_batch_size=12 is not divisible by 8 \(replicas\); set it to 16$"
    ):
        found.check_batches(num_replicas=8)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hardware.dtype=float16", "NoNorm activations exceed its range"),
        ("model.num_layers=0", "model.num_layers=0 is below 1; raise it"),
        ("model.num_heads=3", "model.intra_bottleneck_size=64 is not divisible by model.num_heads=3"),
        ("model.hidden_dropout=1.0", "model.hidden_dropout=1.0 is not a probability below 1"),
        ("model.attention_mask_value=0", "model.attention_mask_value=0.0 is not a finite negative number"),
        (
            "model.num_heads=1",
            "model.initialization=structured needs model.hidden_size=128 and model.intra_bottleneck_size=64 of 8 or "
            "more and heads of at most half of both, not 64; use bert",
        ),
        ("model.initializer_range=-1", "model.initializer_range=-1.0 is not positive; raise it"),
        ("task.optimizer.learning_rate=0", "task.optimizer.learning_rate=0.0 is not positive; raise it"),
        ("task.optimizer.learning_rate=inf", "task.optimizer.learning_rate=inf is not a finite number; give one"),
        ("task.optimizer.learning_rate=nan", "task.optimizer.learning_rate=nan is not a finite number; give one"),
        ("task.optimizer.weight_decay=-1", "task.optimizer.weight_decay=-1.0 is below 0; raise it"),
        ("task.optimizer.warmup_steps=-1", "task.optimizer.warmup_steps=-1 is below 0; raise it"),
        ("task.optimizer.warmup_proportion=1.5", "task.optimizer.warmup_proportion=1.5 is not within [0, 1]"),
        ("task.optimizer.end_learning_rate_ratio=2", "task.optimizer.end_learning_rate_ratio=2.0 is not within [0, 1]"),
        ("task.optimizer.beta_2=1", "task.optimizer.beta_2=1.0 is not within [0, 1)"),
        ("task.optimizer.gradient_clip_norm=0", "task.optimizer.gradient_clip_norm=0.0 is not positive"),
        ("task.num_train_epochs=inf", "task.num_train_epochs=inf is not a finite number; give one"),
        ("hardware.threads=0", "hardware.threads=0 is below 1; raise it"),
        ("hardware.feature_workers=0", "hardware.feature_workers=0 is below 1; raise it"),
        ("hardware.num_replicas=2", "hardware.num_replicas=2 does not fit hardware.distribution=one_device"),
        ("hardware.device=tpu", "hardware.distribution=one_device does not fit hardware.device=tpu"),
        ("trainer.keep_checkpoints=0", "trainer.keep_checkpoints=0 is below 1; raise it"),
        ("seed=-1", "seed=-1 is not within [0, 2147483647]; choose another"),
        ("data_root=", "data_root is empty; name a place, or leave the setting out"),
    ],
)
def test_a_value_that_cannot_work_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose([override])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
