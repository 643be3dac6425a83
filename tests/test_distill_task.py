"""task=distill from the command line: a teacher is made, a student learns from it, and mistakes are one line."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import toy
from command_line import Ended, here
from test_training_loop import stopped

from mobilebert_exp import identity, lineage, location, manifest, registry
from mobilebert_exp.composition import compose
from mobilebert_exp.config import ExperimentConfig, Mode
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.tasks import _pretraining, distill
from mobilebert_exp.tracking import spool

SMALL = [
    "model.num_layers=2", "model.hidden_size=32", "model.intra_bottleneck_size=16", "model.embedding_size=16",
    "model.intermediate_size=32", "model.num_feedforward_networks=1", "model.initialization=bert",
]  # fmt: skip
DATA = [
    "task.starter.train_articles=40", "task.starter.dev_articles=8", "task.starter.vocabulary_size=300",
    "task.starter.vocabulary_articles=40",
    "task.max_seq_length=32", "task.max_predictions_per_seq=5", "task.dupe_factor=1",
    "task.global_batch_size=8", "task.eval_batch_size=8", "task.optimizer.warmup_steps=2",
    "hardware.steps_per_loop=3", "tracking=none",
]  # fmt: skip
TEACHER = ["+preset=micro_teacher", *SMALL, *DATA, "model.intra_bottleneck_size=32", "task.num_train_steps=12"]
OF_TEACHER = [f"task.teacher.{each.removeprefix('model.')}" for each in [*SMALL, "model.intra_bottleneck_size=32"]]
STUDENT = [
    "+preset=micro_student", *SMALL, *DATA, *OF_TEACHER, "task.transfer.steps=8", "task.num_train_steps=6",
    "trainer.eval_every_steps=null",
]  # fmt: skip


# A student of the teacher's own shape, for which the teacher's run is a checkpoint of its own.
SMALL_TEACHER = [
    "model=micro_teacher", *SMALL, "model.intra_bottleneck_size=32", "model.initializer_range=0.05",
]  # fmt: skip
PARTS = ("embeddings/", "layers/", "heads/")


def ran(*arguments: str, folder: Path) -> Ended:
    return here(*arguments, f"output_dir={folder}/outputs", f"cache_dir={folder}/cache")


def result(folder: Path, name: str) -> Mapping[str, Any]:
    """Of the newest run of a task."""
    newest = max((folder / "outputs" / name).rglob("result.json"), key=lambda file: file.stat().st_mtime_ns)
    return json.loads(newest.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a teacher; caches lie beside it."""
    folder = tmp_path_factory.mktemp("teacher")
    assert ran(*TEACHER, folder=folder).code == 0
    return Path(result(folder, "pretrain")["run_dir"])


def folder_of(teacher: Path) -> Path:
    return next(parent for parent in teacher.parents if parent.name == "outputs").parent


def weights(run_dir: str | Path) -> dict[str, np.ndarray]:
    """By our names, whichever way to them the checkpoint took; moments left out."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(Path(run_dir) / "checkpoints")))
    places = [place for place in reader.get_variable_to_shape_map() if not re.search("/(momentum|velocity)/", place)]
    names = {place.partition("/.ATTRIBUTES")[0].rpartition("/")[2].replace(".S", "/"): place for place in places}
    return {name: reader.get_tensor(place) for name, place in names.items() if name.startswith(PARTS)}


def test_a_student_learns_from_a_teacher(teacher: Path) -> None:
    folder = folder_of(teacher)
    ended = ran(*STUDENT, f"task.teacher_checkpoint={teacher}", "task.use_summary=true", folder=folder)
    assert ended.code == 0, ended.err
    found = result(folder, "distill")
    assert found["state"] == "FINISHED"
    assert 0 <= found["metrics"]["masked_lm_accuracy"] <= 100
    run_dir = Path(found["run_dir"])
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert list((run_dir / "tensorboard").iterdir())
    saved = {name for name, _ in tf.train.list_variables(tf.train.latest_checkpoint(str(run_dir / "checkpoints")))}
    assert not any("teacher" in name or "lesson" in name for name in saved), "the teacher is no part of a checkpoint"
    assert any("train/hidden/layer_01" in str(line) for line in lines)
    assert any("train/taught_loss" in str(line) for line in lines)


@pytest.mark.slow
def test_the_student_is_fine_tuned_on_the_embedded_questions(teacher: Path) -> None:
    """The last command of the documentation's three: the same words have the same numbers."""
    folder = folder_of(teacher)
    assert ran(*STUDENT, f"task.teacher_checkpoint={teacher}", "trainer.max_steps=2", "seed=4", folder=folder).code == 0
    articles = [each for each in DATA if each.startswith("task.starter.") and "vocabulary_articles" not in each]
    ended = ran(
        *("+preset=starter", *SMALL, *articles, "tracking=none", "trainer.max_steps=2", "task.global_batch_size=8"),
        f"init.checkpoint={result(folder, 'distill')['run_dir']}",
        folder=folder,
    )
    assert ended.code == 0, ended.err
    assert result(folder, "squad_v1")["state"] == "FINISHED"


@pytest.mark.parametrize("seed", [0, 1])
def test_texts_and_questions_share_a_vocabulary(seed: int, tmp_path: Path) -> None:
    same = ["task.starter.vocabulary_size=300", f"task.starter.seed={seed}", f"cache_dir={tmp_path}"]
    pretraining = compose(["+preset=micro_teacher", "task.starter.vocabulary_articles=30", *same])
    questions = compose(["+preset=starter", "task.starter.train_articles=30", *same])
    digests = [dict(registry.create_task(each).digests([]))["vocabulary"] for each in (pretraining, questions)]
    assert digests[0] == digests[1]
    assert len(list((tmp_path / "starter").rglob("vocab.txt"))) == 1, "made once"
    defaults = [compose([f"+preset={name}"]).task.starter for name in ("micro_teacher", "starter")]  # type: ignore[attr-defined]
    assert defaults[0].vocabulary_articles == defaults[1].train_articles
    assert (defaults[0].seed, defaults[0].vocabulary_size) == (defaults[1].seed, defaults[1].vocabulary_size)


def test_a_student_is_judged_without_its_teacher(teacher: Path) -> None:
    """Nothing but training looks for it, be it gone."""
    folder = folder_of(teacher)
    gone = "task.teacher_checkpoint=/no/such/run"
    ended = ran(*STUDENT, "mode=evaluate", gone, f"init.checkpoint={teacher}", *SMALL_TEACHER, folder=folder)
    assert ended.code == 0, ended.err
    prepared = ran(*STUDENT, "mode=prepare", gone, folder=folder)
    assert prepared.code == 0, prepared.err


def test_only_training_takes_the_teacher_for_part_of_its_identity(teacher: Path) -> None:
    config, _ = assembled(teacher)
    found = {}
    for mode in (Mode.train, Mode.evaluate, Mode.prepare):
        task = registry.create_task(config)
        init = dataclasses.replace(config.init, checkpoint="some/run" if mode is Mode.evaluate else None)
        found[mode] = identity.digests(dataclasses.replace(config, mode=mode, init=init), task)
        assert ("_teacher_weights" in vars(task)) is (mode is Mode.train), "read"
    assert {mode for mode, digests in found.items() if "teacher" in digests} == {Mode.train}


def test_what_rests_in_transfer_is_the_teacher_s(teacher: Path) -> None:
    """After KT alone the student's embeddings and heads are still those it was given."""
    folder = folder_of(teacher)
    only = ["trainer.max_steps=8", "seed=3"]
    assert ran(*STUDENT, f"task.teacher_checkpoint={teacher}", *only, folder=folder).code == 0
    ours, theirs = weights(result(folder, "distill")["run_dir"]), weights(teacher)
    given = [name for name in ours if not name.startswith("layers/")]
    assert len(given) == 15
    for name in given:
        assert np.array_equal(ours[name], theirs[name]) is not name.startswith("embeddings/norm/"), name


REFUSED = {
    "no teacher": (["task.teacher_checkpoint=null"], "task.teacher_checkpoint names no teacher to learn from; "),
    "no such run": (["task.teacher_checkpoint=/no/such/run"], "task.teacher_checkpoint=/no/such/run"),
    "another teacher": (["task.teacher.intermediate_size=64"], "with task.teacher.intermediate_size=32, not 64; "),
    "deeper teacher": (["task.teacher.num_layers=4"], "the teacher has 4 layers and the student 2; "),
    "odd steps": (["task.transfer.steps=9"], "=9 is not divisible by the student's 2 layers; set it to 8"),
    "other width": (["model.hidden_size=64"], "model.hidden_size=64 and task.teacher.hidden_size=32 differ; "),
    "other words": (
        ["task.teacher.vocab_size=7"],
        "task.teacher.vocab_size=7 and the vocabulary of the embedded articles has ",
    ),
    "words of another text": (
        ["task.starter.seed=1"],
        "was pre-trained with another vocabulary of 300 entries; name its own with task.vocab_file, or another teacher",
    ),
    "half": (["task.teacher_dtype=float16"], "task.teacher_dtype=float16 is refused"),
    "ratio": (["task.ground_truth_ratio=1.5"], "task.ground_truth_ratio=1.5 exceeds 1"),
    "cold": (["task.temperature=0"], "task.temperature=0.0 is not positive"),
    "long": (["task.max_seq_length=512", "task.teacher.max_positions=128"], "exceeds the teacher's 128 positions"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_one_line(name: str, teacher: Path) -> None:
    overrides, message = REFUSED[name]
    ended = ran(*STUDENT, f"task.teacher_checkpoint={teacher}", *overrides, folder=folder_of(teacher))
    assert ended.code == 2, ended.err
    assert ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended.err
    assert message in ended.err


def test_checkpoints_alone_say_which_words_a_teacher_knows(teacher: Path, tmp_path: Path) -> None:
    """Without the run's own record: a folder of them as MLflow gives it, and one by its prefix."""
    shutil.copytree(teacher / "checkpoints", tmp_path / "artifacts/checkpoints")
    (newest, *_) = manifest.committed(tmp_path / "artifacts/checkpoints")
    for place in (tmp_path / "artifacts", newest):
        named = f"task.teacher_checkpoint={place}"
        assert assembled(teacher, named)[1].teacher_digests(), "with its own words it is taken"
        with pytest.raises(CheckpointError, match=rf"^{named} was pre-trained with another vocabulary of 300 entries"):
            assembled(teacher, named, "task.starter.seed=1")[1].teacher_digests()


def test_words_beside_a_teacher_of_other_code_are_compared(teacher: Path) -> None:
    _, task = assembled(teacher)
    own = list(task._tokenizer.vocabulary)
    for fitting in (own, [*own, "more"], own[5:]):  # a file that cannot be its own tells nothing
        task._check_words(Weights(values={}, vocabulary="\n".join(fitting).encode()))
    with pytest.raises(CheckpointError, match=r"^task\.teacher_checkpoint=.* was pre-trained with another vocabulary"):
        task._check_words(Weights(values={}, vocabulary="\n".join([*own[:-2], *own[:-3:-1]]).encode()))
    with pytest.raises(CheckpointError, match="another vocabulary"):
        task._check_words(Weights(values={}, vocabulary="\n".join(own).encode(), lower_case=False))


def test_what_is_said_of_the_teacher_leaves_paths_alone() -> None:
    said = (
        "init.checkpoint=model.ckpt-500000: checkpoint /a/model.num_layers/model.ckpt-5 was trained with "
        "model.num_layers=24, not 12; set model=opt, or model.num_layers=24 (model.hidden_act)"
    )
    assert distill.of_the_teacher(said) == (
        "task.teacher_checkpoint=model.ckpt-500000: checkpoint /a/model.num_layers/model.ckpt-5 was trained with "
        "task.teacher.num_layers=24, not 12; set model@task.teacher=opt, or task.teacher.num_layers=24 "
        "(task.teacher.hidden_act)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("after", [2, 8, 11], ids=["first_turn", "end_of_transfer", "answers"])
def test_a_run_goes_on_where_it_stopped(after: int, whole: Path, teacher: Path, tmp_path: Path) -> None:
    """Weights, moments and step, bit for bit."""
    config, task = assembled(teacher)
    stopped(config, task, tmp_path / "run", after=after)
    assert tf.train.latest_checkpoint(str(tmp_path / "run" / "checkpoints")).endswith(f"ckpt-{after}")
    toy.run(config, task, tmp_path / "run")
    expected, found = (toy.weights(str(place / "checkpoints" / "ckpt-14")) for place in (whole, tmp_path / "run"))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def assembled(teacher: Path, *more: str) -> tuple[ExperimentConfig, Any]:
    """The student's experiment, which looks at every step, and its task."""
    cache = f"cache_dir={folder_of(teacher)}/cache"
    config = compose([*STUDENT, f"task.teacher_checkpoint={teacher}", cache, "hardware.steps_per_loop=1", *more])
    task: Any = registry.create_task(config)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=task.vocab_size)), task


@pytest.fixture(scope="module")
def whole(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    config, task = assembled(teacher)
    folder = tmp_path_factory.mktemp("whole")
    toy.run(config, task, folder)
    return folder


ALONE = ["task.transfer.strategy=none", "task.teacher_checkpoint=/no/such/run"]


def test_without_a_teacher_all_updates_are_pre_training() -> None:
    """As many as with one; in the second round, where there are two."""
    config = compose(
        [*STUDENT, *ALONE, "cache_dir=nowhere", "task.first_num_train_steps=2", "task.first_max_seq_length=16"]
    )
    task: Any = registry.create_task(config)
    first, second = task.phases()
    assert (first.steps, second.steps) == (2, 4 + 8)
    assert {type(phase.objective) for phase in (first, second)} == {_pretraining.TwoHeads}
    assert (first.optimizer, second.optimizer) == (config.task.optimizer, None)
    assert dict(task.teacher_digests()) == {}


@pytest.mark.slow
def test_without_a_teacher_a_student_ends_as_pre_training_ends(teacher: Path) -> None:
    """What distillation is measured against owes the teacher nothing: bit for bit, and be there no teacher."""
    folder = folder_of(teacher)
    assert ran(*STUDENT, *ALONE, "seed=5", folder=folder).code == 0
    found = weights(result(folder, "distill")["run_dir"])
    of_preset = ["model=micro", *SMALL, "model.initializer_range=0.05", "trainer.eval_every_steps=null"]
    assert ran(*TEACHER, *of_preset, "task.num_train_steps=14", "seed=5", folder=folder).code == 0
    expected = weights(result(folder, "pretrain")["run_dir"])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_readme_s_recipe_is_the_default() -> None:
    config = compose(["task=distill", "hardware=tpu_v3_256"])
    task: Any = config.task
    assert (config.model.name, task.teacher.name, task.global_batch_size) == ("opt", "teacher", 2048)
    assert (task.max_seq_length, task.max_predictions_per_seq, task.num_train_steps) == (512, 20, 500_000)
    optimizer = task.optimizer
    assert (optimizer.name.name, optimizer.learning_rate, optimizer.warmup_steps) == ("lamb", 1.5e-3, 10_000)
    assert (task.transfer.steps, task.ground_truth_ratio, task.temperature) == (240_000, 0.5, 1.0)


def test_a_plan_tells_every_turn(tmp_path: Path) -> None:
    """Without data, a teacher or a TPU. Figures by hand: 2048 x 512 tokens a step, 740,000 steps."""
    ended = ran("task=distill", "hardware=tpu_v3_256", "mode=plan", folder=tmp_path)
    assert ended.code == 0, ended.err
    rows = {" ".join(line.split()) for line in ended.out.partition("\nplan\n")[2].splitlines()}
    for row in (
        "steps 740,000 in 2 phases",
        f"tokens {740_000 * 2048 * 512:,}",
        "knowledge transfer steps 1 to 240,000",
        "pre-training distillation steps 240,001 to 740,000",
        "replicas 256",
        "per replica 8",
        "teacher teacher, 306,483,516 parameters, forward passes alone",
    ):
        assert row in rows, row
    turns = [row for row in rows if row.startswith("layer ")]
    assert len(turns) == 24
    last = f"layer 24 steps 230,001 to 240,000 by the teacher's 24; {10_000 * 2048 * 512:,} tokens; "
    assert any(row.startswith(last) for row in turns)
    assert not list(tmp_path.rglob("*.tfrecord"))


def test_a_plan_tells_what_would_run(tmp_path: Path) -> None:
    """`trainer.max_steps` ends it in the third turn: the operations are those of these turns alone."""
    recipe = ["task=distill", "hardware=tpu_v3_256", "mode=plan"]
    ended = ran(*recipe, "trainer.max_steps=24000", folder=tmp_path)
    assert ended.code == 0, ended.err
    rows = [" ".join(line.split()) for line in ended.out.partition("\nplan\n")[2].splitlines()]
    turns = [row for row in rows if row.startswith("layer ")]
    assert [row.split()[1] for row in turns] == ["1", "2", "3"]
    third = f"layer 3 steps 20,001 to 24,000 by the teacher's 3; {4000 * 2048 * 512:,} tokens; "
    assert turns[-1].startswith(third)
    told = [float(row.rpartition("; ")[2].split()[0]) for row in turns]
    shown = {row.split()[0]: float(row.split()[1]) for row in rows if row.startswith("FLOPs ")}
    assert shown["FLOPs"] == pytest.approx(sum(told), rel=0.01)
    assert "pre-training distillation 0.00e+00" in rows


@pytest.mark.slow
def test_feature_maps_come_nearer_in_every_turn(teacher: Path) -> None:
    """The last fifth of a turn against its first, whatever the other losses do."""
    folder, steps = folder_of(teacher), 60
    length = [f"task.transfer.steps={steps}", f"trainer.max_steps={steps}", "seed=6", "hardware.steps_per_loop=1"]
    assert ran(*STUDENT, f"task.teacher_checkpoint={teacher}", *length, folder=folder).code == 0
    entries = spool.read(Path(result(folder, "distill")["run_dir"]) / spool.FILE_NAME)
    for layer in ("layer_01", "layer_02"):
        losses = [
            entry.metrics[f"train/hidden/{layer}"] for entry in entries if f"train/hidden/{layer}" in entry.metrics
        ]
        assert len(losses) == steps / 2
        assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6]), layer


def test_moments_that_begin_anew_are_not_corrected() -> None:
    """A correction counts updates of the whole phase, not of the turn; PD keeps what is asked."""
    config = compose(["+preset=micro_student", "cache_dir=nowhere"])
    assert config.task.optimizer.bias_correction
    task: Any = registry.create_task(config)
    transferring, *_, answering = (phase.optimizer for phase in task.phases() if phase.optimizer)
    assert not transferring.bias_correction
    assert answering.bias_correction


@pytest.mark.parametrize("override", ["model=micro", "model=tiny"])
def test_another_student_may_be_named(override: str) -> None:
    config = compose(["task=distill", override, "model@task.teacher=micro_teacher"])
    assert config.model.name == override.partition("=")[2]
    assert config.task.teacher.name == "micro_teacher"  # type: ignore[attr-defined]


def test_a_run_leads_to_that_of_its_teacher(tmp_path: Path) -> None:
    (tmp_path / location.STATE_FILE).write_text(json.dumps({"state": "FINISHED", "run_id": "run-teacher"}))
    for place, tags in ((tmp_path, {"teacher_run_id": "run-teacher"}), (tmp_path / "nowhere", {})):
        config = compose(["task=distill", f"task.teacher_checkpoint={place}"])
        assert lineage.tags(config, config) == tags
