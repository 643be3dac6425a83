"""A start that fails before a run begins: told in one line without TensorFlow, and no folder, no run is left of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from command_line import Ended, here

from mobilebert_exp import compose, manifest, registry
from mobilebert_exp.config import leaves
from mobilebert_exp.registry import create_task
from mobilebert_exp.tracking import states

SMALL = ["task.starter.train_articles=20", "task.starter.dev_articles=2", "task.starter.vocabulary_size=300"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs a command that must not get as far as its runner, which is where TensorFlow is loaded."""

    def refuse(mode: object) -> object:
        raise AssertionError(f"the runner of {mode} was asked for")

    monkeypatch.setattr(registry, "runner", refuse)
    places = [f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache"]
    return lambda *arguments: here(*SMALL, *places, *arguments)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """As much of a finished run of `micro` as is looked at before TensorFlow is loaded."""
    config = compose([*SMALL, "model.vocab_size=300", f"cache_dir={tmp_path}/cache"])
    folder = tmp_path / "run"
    (folder / "checkpoints" / "best").mkdir(parents=True)
    (folder / "provenance").mkdir()
    for prefix in ("best/ckpt-3", "ckpt-4"):
        (folder / "checkpoints" / f"{prefix}.index").touch()
    head = create_task(config).head
    (folder / "model.json").write_text(json.dumps({**leaves(config.model), "head": head}), encoding="utf-8")
    (folder / "provenance" / "config.json").write_text(json.dumps(leaves(config), default=str), encoding="utf-8")
    return folder


MISFITS = {
    "model.num_layers=2 model.num_heads=2": (
        "model.num_layers=3, not 2, model.num_heads=4, not 2; set model.num_layers=3 model.num_heads=4; "
        "init.strict=false starts with what fits",
        ("", "/last"),
    ),
    "mode=evaluate model=tiny model.vocab_size=null": (
        "model=micro, not tiny (model.embedding_size=64, not 128); set model=micro",
        ("",),
    ),
    "task.starter.vocabulary_size=280 task.starter.train_articles=21": (
        "a vocabulary of 300 entries, and this experiment's has 280; "
        "set task.starter.train_articles=20 task.starter.vocabulary_size=300, as there; "
        "init.strict=false starts with what fits",
        ("/checkpoints/best/ckpt-3",),
    ),
}


@pytest.mark.parametrize("typed", MISFITS)
def test_weights_of_another_model_are_told_at_once(
    typed: str, start: Callable[..., Ended], run_dir: Path, tmp_path: Path
) -> None:
    told, places = MISFITS[typed]
    for place in places:
        ended = start(*typed.split(" "), f"init.checkpoint={run_dir}{place}")
        assert ended.err == f"error: init.checkpoint={run_dir}{place} was trained with {told}\n"
        assert (ended.code, ended.out) == (2, "")
    assert not list((tmp_path / "outputs").iterdir()), "neither a folder nor a run in the tracker"


def test_a_vocabulary_of_ones_own_has_another_remedy(start: Callable[..., Ended], run_dir: Path) -> None:
    (run_dir / "provenance" / "config.json").unlink()
    ended = start("task.starter.vocabulary_size=280", f"init.checkpoint={run_dir}")
    assert ended.err == (
        f"error: init.checkpoint={run_dir} was trained with a vocabulary of 300 entries, "
        "and this experiment's has 280; set data_root or task.vocab_file to its own; "
        "init.strict=false starts with what fits\n"
    )


def test_other_words_of_the_same_number_are_told_at_once(start: Callable[..., Ended], run_dir: Path) -> None:
    """Where a run says of which vocabulary it is; the remedy are the settings it followed from."""
    record = json.loads((run_dir / "model.json").read_text())
    (run_dir / "model.json").write_text(json.dumps({**record, "vocabulary": "0123456789abcdef"}))
    spellings = ("/last", "/checkpoints/", "/checkpoints/best", "/checkpoints/ckpt-4.index")
    for mode, spelling, partly in (
        ("evaluate", "", ""),
        ("train", "", "; init.strict=false starts with what fits"),
        *(("evaluate", spelling, "") for spelling in (*spellings, "/checkpoints/best/ckpt-3.data-00000-of-00001")),
    ):
        ended = start(f"mode={mode}", "task.starter.seed=1", f"init.checkpoint={run_dir}{spelling}")
        assert re.sub("[0-9a-f]{12}…", "DIGEST", ended.err) == (
            f"error: init.checkpoint={run_dir}{spelling} was trained with another vocabulary of as many entries "
            f"(sha256 DIGEST, and this experiment's is DIGEST); set task.starter.seed=0, as there{partly}\n"
        )
    with pytest.raises(AssertionError, match=r"the runner of Mode\.train was asked for"):
        start("init.strict=false", "tracking=none", f"init.checkpoint={run_dir}")


def test_checkpoints_without_their_run_s_record_tell_the_same(
    start: Callable[..., Ended], run_dir: Path, tmp_path: Path
) -> None:
    """As they come from MLflow, or one copied elsewhere: of which model they are, of which words, and for what."""
    record = json.loads((run_dir / "model.json").read_text())
    head = record.pop("head")
    for folder in (run_dir, tmp_path / "alone"):
        told = {"head": head, "model": record, "vocabulary": "0123456789abcdef"}
        (folder / "checkpoints/best").mkdir(parents=True, exist_ok=True)
        manifest.commit(folder / "checkpoints/best/ckpt-3", step=3, **told)
    shutil.rmtree(run_dir / "provenance")
    (run_dir / "model.json").unlink()
    (tmp_path / "alone/checkpoints/best").rename(tmp_path / "files")
    (tmp_path / "files/ckpt-3.index").touch()
    alone = [tmp_path / "files" / name for name in ("ckpt-3", "ckpt-3.index", "ckpt-3.data-00000-of-00001")]
    for place in (run_dir, run_dir / "best", run_dir / "checkpoints/best", *alone):
        ended = start("mode=evaluate", f"init.checkpoint={place}")
        assert re.sub("[0-9a-f]{12}…", "DIGEST", ended.err) == (
            f"error: init.checkpoint={place} was trained with another vocabulary of as many entries (sha256 DIGEST, "
            "and this experiment's is DIGEST); set data_root or task.vocab_file to its own\n"
        )
    ended = start("mode=evaluate", "model.num_layers=2", f"init.checkpoint={tmp_path}/files/ckpt-3")
    assert "was trained with model.num_layers=3, not 2; set model.num_layers=3" in ended.err
    manifest_file = run_dir / "checkpoints/best/ckpt-3.json"
    manifest_file.write_text(manifest_file.read_text().replace("0123456789abcdef", "0123456789abcdee"))
    with pytest.raises(AssertionError, match=r"the runner of Mode\.train was asked for"):  # which tells the damage
        start("tracking=none", f"init.checkpoint={run_dir}")


def test_the_head_of_another_task_is_told_at_once(start: Callable[..., Ended], run_dir: Path, tmp_path: Path) -> None:
    record = json.loads((run_dir / "model.json").read_text())
    (run_dir / "model.json").write_text(json.dumps({**record, "head": "another question"}))
    for other_words in ([], ["task.starter.vocabulary_size=280"]):  # which is then the less of the two mistakes
        ended = start("mode=evaluate", *other_words, f"init.checkpoint={run_dir}")
        assert ended.err == (
            f"error: init.checkpoint={run_dir} has the head of another task (another question), and this one asks for "
            f"{record['head']}; name a run of this task, or train one from it with mode=train\n"
        )
    assert not list((tmp_path / "outputs").iterdir())
    with pytest.raises(AssertionError, match=r"the runner of Mode\.train was asked for"):  # which takes the encoder
        start("tracking=none", f"init.checkpoint={run_dir}")


def test_weights_that_know_no_ranges_are_told_at_once(start: Callable[..., Ended], run_dir: Path) -> None:
    for mode in ("evaluate", "export"):
        ended = start(f"mode={mode}", "model.fake_quantization=per_channel", f"init.checkpoint={run_dir}/last")
        assert ended.err == (
            f"error: init.checkpoint={run_dir}/last was trained without fake quantisation, and has no ranges for "
            "model.fake_quantization=per_channel; train from it with mode=train, or set model.fake_quantization=none\n"
        )


def test_a_damaged_record_is_one_line(start: Callable[..., Ended], run_dir: Path) -> None:
    (run_dir / "model.json").write_text("[1, ")
    ended = start(f"init.checkpoint={run_dir}")
    assert ended.err == (f"error: init.checkpoint: {run_dir}/model.json is no JSON object; choose another run\n")


@pytest.mark.parametrize("typed", ["task.doc_stride=400", "data_root=nowhere", "init.checkpoint=nowhere"])
def test_no_folder_is_left(typed: str, start: Callable[..., Ended], tmp_path: Path) -> None:
    assert start(typed).code == 2
    assert not list((tmp_path / "outputs").iterdir())
    of_today = tmp_path / "outputs" / "squad_v1" / date.today().isoformat()
    (of_today / "an earlier run").mkdir(parents=True)
    assert start(typed).code == 2
    assert [path.name for path in of_today.iterdir()] in (["an earlier run"], []), "of today, but at midnight"
    assert (of_today / "an earlier run").is_dir()


def test_a_folder_with_something_else_in_it_stays(start: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    assert start("data_root=nowhere", f"hydra.run.dir={tmp_path}/mine").code == 2
    assert (tmp_path / "mine" / "notes.txt").exists()
    assert start("data_root=nowhere", f"hydra.run.dir={tmp_path}/parent/new").code == 2
    assert (tmp_path / "parent").is_dir(), "whose it is, nobody knows"
    assert not (tmp_path / "parent" / "new").exists()


def test_a_plan_removes_nothing(start: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / ".hydra").mkdir(parents=True)
    (tmp_path / "here" / "mobilebert_exp.log").touch()
    monkeypatch.chdir(tmp_path / "here")
    assert start("mode=plan", "data_root=nowhere").code == 2
    assert sorted(path.name for path in Path.cwd().iterdir()) == [".hydra", "mobilebert_exp.log"]


def test_a_job_of_a_sweep_keeps_its_folder(start: Callable[..., Ended], tmp_path: Path) -> None:
    """The sweep's table tells of it, with what was typed in."""
    ended = start("hydra.mode=MULTIRUN", "tracking=none", "task.doc_stride=400,410")
    assert ended.code == 2
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/?/.hydra/overrides.yaml"))) == 2
    assert "job 1 FAILED: ConfigError: task.doc_stride=410" in ended.out


def test_a_run_that_has_begun_stays(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    states.forget_unbegun(tmp_path / "none", made=[".hydra"])
    (tmp_path / "state.json").touch()
    states.forget_unbegun(tmp_path, made=[".hydra"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hydra", "state.json"]
