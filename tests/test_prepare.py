"""mode=prepare: the features of every split, made once, here or in a bucket, on a machine without anything special."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import glue_files
import pytest
import toy
from cloud import BUCKET
from command_line import Ended, here
from fakes import FakeTracker
from faults import Fault, Proxy

from mobilebert_exp.data import parallel, records
from mobilebert_exp.errors import MissingDataError
from mobilebert_exp.runners import prepare
from mobilebert_exp.runners.base import Job, StopRequest
from mobilebert_exp.storage.bucket import Bucket
from mobilebert_exp.storage.place import Place
from mobilebert_exp.tasks.base import Features, Split

SMALL = ["+preset=starter", "task.starter.train_articles=20", "task.starter.dev_articles=4", "tracking=none"]
ROW = re.compile(r"(train|dev|predict) +([\d,]+) +([\d,]+) +([\d,]+) +([\d.]+)  (\S+)")


def _prepared(folder: Path, *more: str, cache: str = "cache") -> Ended:
    return here("mode=prepare", *SMALL, f"output_dir={folder}/outputs", f"cache_dir={folder}/{cache}", *more)


def _table(ended: Ended) -> dict[str, tuple[int, int, str]]:
    """Features, bytes and place by split."""
    assert (ended.code, "split" in ended.out) == (0, True), ended.err
    rows = [found for line in ended.out.splitlines() if (found := ROW.fullmatch(line))]
    return {row[1]: (int(row[3].replace(",", "")), int(row[4].replace(",", "")), row[6]) for row in rows}


def _forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on whoever makes features fails the test."""

    def refuse(*_: Any, **__: Any) -> int:
        raise AssertionError("features are made again")

    monkeypatch.setattr(records, "write", refuse)


def test_features_are_made_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table(_prepared(tmp_path, "hardware=tpu_v3_8", "task.eval_batch_size=64"))
    assert list(table) == ["train", "dev", "predict"]
    for features, size, place in table.values():
        assert Path(place).is_relative_to(tmp_path / "cache" / "features")
        assert size == sum(file.stat().st_size for file in Path(place).glob("*.tfrecord*"))
        assert features > 0
    (file,) = tmp_path.glob("outputs/*/*/*/result.json")
    result = json.loads(file.read_text(encoding="utf-8"))
    assert result["state"] == "FINISHED"
    assert result["metrics"] == {f"{split}_features": row[0] for split, row in table.items()}
    assert result["paths"] == {split: row[2] for split, row in table.items()}
    _forbid(monkeypatch)
    assert _table(_prepared(tmp_path)) == table, "on any hardware the same, and made once"


def test_features_of_a_bucket_serve_another_machine(
    cloud: Proxy, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = _table(_prepared(tmp_path, f"shared_cache={place}"))
    for _, _, where in table.values():
        assert where.startswith(f"{place}/features/")
        inside = Place.parse(where)
        assert Bucket(BUCKET).stat((inside / "manifest.json").name) is not None
    _forbid(monkeypatch)
    assert _table(_prepared(tmp_path, f"shared_cache={place}", cache="another")) == table


def test_a_bucket_that_refuses_is_one_line(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    cloud.faults.append(Fault(pattern="POST", kind="status", status=403, times=99))
    ended = _prepared(tmp_path, f"shared_cache={place}")
    *_, last = ended.err.splitlines()
    assert last.startswith(f"error: {place}/") and " is not allowed to this account (" in last
    assert (ended.code, "Traceback" in ended.err) == (2, False)


REFUSED = {
    "cache_dir=gs://some-bucket/x": (
        "cache_dir=gs://some-bucket/x is no folder of this machine; name one, and set shared_cache=gs://some-bucket/x"
    ),
    "output_dir=gs://some-bucket/x": (
        "output_dir=gs://some-bucket/x is no folder of this machine; name one, and set upload_to=gs://some-bucket/x"
    ),
    "shared_cache=/some/folder": "shared_cache=/some/folder is no place in a bucket; write gs://BUCKET/FOLDER",
    "upload_to=gs://A/x": "upload_to=gs://A/x is no place in a bucket; write gs://BUCKET/FOLDER",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_places_of_the_wrong_kind(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = [] if "output_dir" in typed else [f"output_dir={tmp_path}/outputs"]
    assert here("mode=prepare", typed, *elsewhere) == Ended(2, "", f"error: {REFUSED[typed]}\n")
    assert not list(tmp_path.glob("gs:*"))


class _WithoutPredict(toy.ToyTask):
    """Its data have nothing to predict."""

    def features(self, split: Split, *, limit: int | None = None) -> Features:
        if split is Split.predict:
            raise MissingDataError("test.tsv is not there; name a readable file")
        return super().features(split, limit=limit)


def test_a_part_that_the_data_do_not_have(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = toy.experiment(trainer__limit_eval=5)
    task: Any = _WithoutPredict(config=config.task, folder=tmp_path)
    job = Job(config=config, task=task, run_dir=tmp_path, tracker=toy.started(FakeTracker()), stop=StopRequest())
    outcome = prepare.run(job)
    assert outcome.metrics == {"train_features": 30.0, "dev_features": 5.0}
    assert "no predict part is prepared: test.tsv is not there; name a readable file" in caplog.text


def _prepared_glue(folder: Path, dataset: str) -> Ended:
    return here(
        *("mode=prepare", "task=glue", f"task.dataset={dataset}", f"data_root={folder}", "task.max_seq_length=32"),
        *("tracking=none", f"output_dir={folder}/outputs", f"cache_dir={folder}/cache"),
    )


def test_a_damaged_part_is_no_part_that_is_absent(tmp_path: Path) -> None:
    glue_files.vocabulary(tmp_path)
    glue_files.sst2(tmp_path)
    test = tmp_path / "glue/SST-2/test.tsv"
    test.write_text(test.read_text() + "one column\n", encoding="utf-8")
    ended = _prepared_glue(tmp_path, "sst2")
    assert (ended.code, ended.err.splitlines()[-1].startswith(f"error: {test}, line 12: ")) == (2, True), ended.err
    (result,) = tmp_path.glob("outputs/*/*/*/result.json")
    assert json.loads(result.read_text())["state"] == "FAILED"
    test.unlink()
    assert list(_table(_prepared_glue(tmp_path, "sst2"))) == ["train", "dev"]


def test_a_data_set_without_a_train_part(tmp_path: Path) -> None:
    glue_files.vocabulary(tmp_path)
    glue_files.diagnostic(tmp_path, count=6)
    table = _table(_prepared_glue(tmp_path, "ax"))
    assert {split: row[0] for split, row in table.items()} == {"dev": 6, "predict": 6}


def test_nothing_at_all_to_prepare(tmp_path: Path) -> None:
    class Empty(toy.ToyTask):
        def features(self, split: Split, *, limit: int | None = None) -> Features:
            raise MissingDataError(f"{split.value}.tsv is not there; name a readable file")

    config = toy.experiment()
    task: Any = Empty(config=config.task, folder=tmp_path)
    job = Job(config=config, task=task, run_dir=tmp_path, tracker=toy.started(FakeTracker()), stop=StopRequest())
    with pytest.raises(MissingDataError, match=r"^train.tsv is not there; name a readable file$"):
        prepare.run(job)


def test_how_many_make_features_can_be_set_and_is_no_other_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = set(), parallel.team_size

    def heard() -> int:
        asked.add(real())
        return 1

    monkeypatch.setattr(parallel, "team_size", heard)
    _table(_prepared(tmp_path, "hardware.feature_workers=3"))
    assert asked == {3}
    _table(_prepared(tmp_path, "hardware.feature_workers=7", cache="another cache"))
    assert asked == {3, 7}
    states = [json.loads(file.read_text(encoding="utf-8")) for file in tmp_path.glob("outputs/*/*/*/state.json")]
    assert len({state["identity"] for state in states}) == 1 < len(states)
