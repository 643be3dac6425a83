"""A run looks for the files that its mode reads, and for no other: each may be a long download, or not be there."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import glue_files
import pytest
import toy
from command_line import here
from fakes import FakeTracker

from mobilebert_exp import compose, identity
from mobilebert_exp.data import sources
from mobilebert_exp.errors import DataError
from mobilebert_exp.registry import create_task
from mobilebert_exp.runners.base import Job, StopRequest
from mobilebert_exp.runners.evaluate import score_checkpoint
from mobilebert_exp.tasks.base import Features, Split

MNLI_DEV = ["glue/MNLI/dev_matched.tsv", "glue/MNLI/dev_mismatched.tsv"]
MNLI_TEST = ["glue/MNLI/test_matched.tsv", "glue/MNLI/test_mismatched.tsv"]
START = "init.checkpoint=nowhere"


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["task=xnli", "mode=evaluate", START], ["xnli/xnli.dev.tsv"]),
        (["task=xnli", "mode=predict", START], ["xnli/xnli.test.tsv"]),
        (["task=xnli"], ["glue/MNLI/train.tsv", "xnli/xnli.dev.tsv"]),
        (["task=glue", "task.dataset=mnli", "mode=evaluate", START], MNLI_DEV),
        (["task=glue", "task.dataset=mnli", "mode=predict", START], MNLI_TEST),
        (["task=glue", "task.dataset=mnli"], ["glue/MNLI/train.tsv", *MNLI_DEV]),
        (["task=glue", "task.dataset=mnli", "mode=prepare"], ["glue/MNLI/train.tsv", *MNLI_DEV, *MNLI_TEST]),
        (["task=squad_v1", "mode=evaluate", START], ["squad/dev-v1.1.json"]),
        (["task=squad_v1", "mode=predict", START], ["squad/dev-v1.1.json"]),
        (["task=xnli", "mode=export", START, "export.format=tflite_dynamic"], []),
        (["task=squad_v1", "mode=export", START, "export.format=all"], ["squad/train-v1.1.json"]),
        (["task=squad_v1", "mode=export", START, "export.format=tflite_int8"], ["squad/train-v1.1.json"]),
        (["task=squad_v1", "mode=export", START, "export.format=tflite_int8", "model=qat"], []),
        (["task=squad_v1", "mode=export", START, "export.format=all", "model=qat"], ["squad/train-v1.1.json"]),
        (["task=squad_v1", "mode=benchmark", START], ["squad/dev-v1.1.json"]),
        (["task=squad_v1"], ["squad/train-v1.1.json", "squad/dev-v1.1.json"]),
    ],
    ids=lambda value: "-".join(value[:3]) if value and "=" in value[0] else "",
)
def test_a_mode_asks_for_its_own_files(
    overrides: list[str], wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    glue_files.vocabulary(tmp_path)
    asked: list[str] = []

    def find(relative: str, *, data_root: str | None, cache_dir: str | Path, key: str) -> Path:
        assert data_root == sources.PUBLISHERS
        asked.append(relative)
        file = tmp_path / relative
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return file

    monkeypatch.setattr(sources, "find", find)
    config = compose([*overrides, f"data_root={sources.PUBLISHERS}", f"cache_dir={tmp_path}/cache"])
    digests = identity.digests(config, create_task(config))
    assert sorted({name for name in asked if not name.startswith("vocab/")}) == sorted(wanted)
    assert len(digests) == 1 + len(wanted)


def test_what_is_not_there_is_prepared_without(tmp_path: Path) -> None:
    glue_files.vocabulary(tmp_path)
    glue_files.rte(tmp_path)
    (tmp_path / "glue/RTE/test.tsv").unlink()
    config = compose(
        ["mode=prepare", "task=glue", "task.dataset=rte", f"data_root={tmp_path}", f"cache_dir={tmp_path}/cache"]
    )
    assert set(identity.digests(config, create_task(config))) == {"vocabulary", "train", "dev"}


def test_one_part_alone_is_enough_to_predict_and_its_absence_is_told_at_once(tmp_path: Path) -> None:
    """Before anything is opened: neither a run nor a model is needed to know that there is no file."""
    glue_files.vocabulary(tmp_path)
    glue_files.rte(tmp_path)
    settings = ["task=glue", "task.dataset=rte", "+preset=scratch", f"data_root={tmp_path}", "tracking=none"]
    places = [f"cache_dir={tmp_path}/cache", f"output_dir={tmp_path}/outputs", f"hydra.run.dir={tmp_path}/run"]
    test = tmp_path / "glue/RTE/test.tsv"
    kept = shutil.move(test, tmp_path / "kept.tsv")
    start = f"init.checkpoint={tmp_path}/none"
    ended = here("mode=predict", *settings, *places, start)
    *_, last = ended.err.splitlines()
    assert ended.code == 2
    assert last == (
        f"error: data_root={tmp_path} has no glue/RTE/test.tsv; put it there, or name a file in task.test_file"
    )
    assert not (tmp_path / "run").exists()
    shutil.rmtree(tmp_path / "glue")
    test.parent.mkdir(parents=True)
    shutil.move(kept, test)
    ended = here("mode=predict", *settings, *places, start)
    assert (ended.code, "no checkpoint there" in ended.err) == (2, True), ended.err


@dataclasses.dataclass(kw_only=True)
class BrokenData(toy.ToyTask):
    """Whose features cannot be made, and which must not be asked for a model then."""

    def features(self, split: Split, *, limit: int | None = None) -> Features:
        raise DataError("the file is broken")

    def build(self, *_: object, **__: object) -> None:  # type: ignore[override]
        raise AssertionError("a model was built first")


def test_broken_data_are_told_before_a_model_is_built(tmp_path: Path) -> None:
    config = toy.experiment(init__checkpoint=str(tmp_path))
    job = Job(
        config=config,
        task=BrokenData(config=config.task, folder=tmp_path),
        run_dir=tmp_path,
        tracker=toy.started(FakeTracker()),
        stop=StopRequest(),
    )
    with pytest.raises(DataError, match=r"^the file is broken$"):
        score_checkpoint(job, Split.dev)
