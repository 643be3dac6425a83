"""A user's mistake with GLUE or XNLI: one line on stderr that says what, where and the remedy, exit code 2."""

from __future__ import annotations

from pathlib import Path

import glue_files
import pytest
from command_line import Ended, here

from mobilebert_exp import experiment
from mobilebert_exp.data import publishers
from mobilebert_exp.data.publishers import Part
from mobilebert_exp.storage import web
from mobilebert_exp.storage.web import File


def _is_refused(ended: Ended, message: str) -> None:
    assert ended.err == f"error: {message}\n"
    assert ended.code == 2


COMPOSITION = {
    "task=glue task.dataset=rtee": (
        "task.dataset=rtee is not one of cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli, ax; did you mean rte?"
    ),
    "task=glue task.dataset=imdb": (
        "task.dataset=imdb is not one of cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli, ax; choose one"
    ),
    "task=glue task.dataset=rte task.main_metric=f1": (
        "task.main_metric=f1 is not one of accuracy, glue_score, which task.dataset=rte has; choose one"
    ),
    "task=glue task.classifier_dropout=1": (
        "task.classifier_dropout=1.0 is not a probability below 1; choose one in [0, 1)"
    ),
    "task=glue task.max_seq_length=4": "task.max_seq_length=4 is below 5; raise it",
    "task=xnli task.train_languages=[dee]": (
        "task.train_languages: dee is not a language of XNLI; did you mean de? "
        "there are ar, bg, de, el, en, es, fr, hi, ru, sw, th, tr, ur, vi, zh"
    ),
    "task=xnli task.train_languages=[]": "task.train_languages is empty; name some, e.g. [en], or leave it out",
    "task=xnli task.main_metric=f1": (
        "task.main_metric=f1 is not accuracy, the mean over the languages; leave it out"
    ),
    "task=xnli task.eval_part=train": "task.eval_part=train is not one of dev, test; choose one",
    "task=xnli task.translate_train=true task.train_file=a.tsv": (
        "task.translate_train=true reads a file for each of task.train_languages, and task.train_file is another; "
        "leave one of them out"
    ),
}  # fmt: skip


@pytest.mark.parametrize("typed", COMPOSITION)
def test_what_cannot_be_composed(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(experiment, "run")  # nothing of this may get so far
    _is_refused(here(f"output_dir={tmp_path}", *typed.split(" ")), COMPOSITION[typed])


@pytest.fixture
def plan(tmp_path: Path) -> list[str]:
    """A plan on the invented files."""
    glue_files.vocabulary(tmp_path)
    glue_files.sst2(tmp_path)
    return ["mode=plan", f"data_root={tmp_path}", f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache"]


def test_the_publishers_of_glue_cannot_be_reached(
    plan: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are who is asked where there is no data_root."""
    monkeypatch.setattr(web, "BACKOFF_S", 0.0)
    archive = File(address="http://127.0.0.1:9/RTE.zip")  # nobody listens on the discard port
    monkeypatch.setattr(publishers, "FILES", {"glue/RTE/train.tsv": Part(file=archive, member="RTE/train.tsv")})
    arguments = [argument for argument in plan if not argument.startswith("data_root=")]
    named = f"task.vocab_file={tmp_path}/vocab/bert_uncased_vocab.txt"
    _is_refused(
        here(*arguments, "task=glue", "task.dataset=rte", named),
        "RTE.zip cannot be fetched from http://127.0.0.1:9/RTE.zip (no connection); fetch and unpack it where there is "
        "a network, put it at DIR/glue/RTE/train.tsv and set data_root=DIR",
    )


def test_a_part_that_is_not_there(plan: list[str], tmp_path: Path) -> None:
    _is_refused(
        here(*plan, "task=glue", "task.dataset=qnli"),
        f"data_root={tmp_path} has no glue/QNLI/train.tsv; put it there, or name a file in task.train_file",
    )


def test_the_diagnostic_has_nothing_to_learn_from(plan: list[str]) -> None:
    _is_refused(
        here(*plan, "task=glue", "task.dataset=ax"),
        "task.dataset=ax has no train part: it judges models of MNLI; train with task.dataset=mnli, "
        "then come back with mode=evaluate or mode=predict and init.checkpoint=RUN",
    )


def test_a_broken_file_is_told_by_its_line(plan: list[str], tmp_path: Path) -> None:
    (tmp_path / "glue/SST-2/dev.tsv").write_text("sentence\tlabel\nfine\t1\nbad\t2\n", encoding="utf-8")
    _is_refused(
        here(*plan, "task=glue", "task.dataset=sst2"),
        f"{tmp_path}/glue/SST-2/dev.tsv, line 3: label '2' is not one of 0, 1; correct it",
    )


def test_a_broken_dev_file_is_told_before_training(plan: list[str], tmp_path: Path) -> None:
    (tmp_path / "glue/SST-2/dev.tsv").write_text("sentence\tlabel\nfine\t1\nbad\t2\n", encoding="utf-8")
    ended = here(*plan[1:], "task=glue", "task.dataset=sst2", "tracking=none", f"hydra.run.dir={tmp_path}/run")
    assert ended.err.endswith(
        f"error: {tmp_path}/glue/SST-2/dev.tsv, line 3: label '2' is not one of 0, 1; correct it\n"
    )
    assert ended.code == 2
    assert not list((tmp_path / "run").glob("checkpoints/*.index"))
    assert not list((tmp_path / "cache/features").glob("*/features.tfrecord.*"))


def test_casing(plan: list[str], tmp_path: Path) -> None:
    vocab = tmp_path / "vocab/bert_uncased_vocab.txt"
    _is_refused(
        here(*plan, "task=glue", "task.dataset=sst2", "task.lower_case=false", f"task.vocab_file={vocab}"),
        f"task.lower_case=false does not fit vocabulary {vocab}: none of its pieces has a capital letter, "
        "so every word with one would be unknown; set task.lower_case=true",
    )
    cased = tmp_path / "vocab/bert_multi_cased_vocab.txt"
    _is_refused(
        here(*plan, "task=squad_v1", f"task.vocab_file={cased}"),
        f"task.lower_case=true does not fit vocabulary {cased}: 26 of its pieces have capital letters, "
        "which lower-cased text never has; set task.lower_case=false",
    )
