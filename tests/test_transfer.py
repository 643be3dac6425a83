"""From one task to another: the encoder goes along, a head only to a task that asks what it was taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import glue_files
import numpy as np
import originals
import pytest
import tensorflow as tf
import toy
from command_line import Ended, here

from mobilebert_exp import compose
from mobilebert_exp.data import glue
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.modeling.checkpoints import native, native_weights
from mobilebert_exp.modeling.checkpoints.account import Account, Demand, account
from mobilebert_exp.registry import create_task

TASKS = {
    **{name: ("task=glue", f"task.dataset={name}") for name in ("sst2", "stsb", "mnli", "rte", "ax")},
    "xnli": ("task=xnli", "task.lower_case=true"),
    "squad": ("task=squad_v1", "task.max_query_length=10", "task.doc_stride=8"),
    "squad_v2": ("task=squad_v2", "task.max_query_length=10", "task.doc_stride=8"),
}


class Workplace:
    """Invented data, and runs of one step that hardly moves the weights."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs = root, root / "runs"
        glue_files.vocabulary(root)
        for invent in (glue_files.sst2, glue_files.stsb, glue_files.mnli, glue_files.rte):
            invent(root)
        glue_files.diagnostic(root, count=6)
        glue_files.xnli(root / "xnli" / "xnli.dev.tsv", {"en": 6})
        (root / "squad").mkdir()
        for version in ("1.1", "2.0"):
            content = json.dumps(originals.invent(0, paragraphs=3, version_2=version == "2.0", awkward=0.0))
            for part in ("train", "dev"):
                (root / "squad" / f"{part}-v{version}.json").write_text(content, encoding="utf-8")

    def run(self, name: str, *overrides: str, mode: str = "train", place: str = "") -> Ended:
        return here(
            *(f"mode={mode}", *TASKS[name], "+preset=scratch", "tracking=none", "model.num_layers=1"),
            *("model.vocab_size=null", f"task.vocab_file={self.root}/vocab/bert_uncased_vocab.txt"),
            *("task.max_seq_length=24", "task.global_batch_size=8", "task.eval_batch_size=8", "trainer.max_steps=1"),
            *("task.optimizer.learning_rate=1e-12", "trainer.limit_eval=12", f"data_root={self.root}"),
            *(f"output_dir={self.root}/outputs", f"cache_dir={self.root}/cache"),
            *(f"hydra.run.dir={self.runs / (place or name)}", *overrides),
        )

    def weights(self, place: str) -> dict[str, np.ndarray]:
        """Of the model, by variable."""
        return toy.weights(tf.train.latest_checkpoint(str(self.runs / place / native.FOLDER / native.BEST)))

    def trained(self, name: str) -> str:
        """A run of a task, made when it is first asked for."""
        if not (self.runs / name).exists():
            ended = self.run(name)
            assert ended.code == 0, ended.err
        return f"init.checkpoint={self.runs / name}"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("transfer"))


def slow(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("source", "target"), [("mnli", "rte"), slow("mnli", "stsb"), slow("squad", "rte"), slow("mnli", "xnli")]
)
def test_training_starts_from_another_tasks_encoder(workplace: Workplace, source: str, target: str) -> None:
    """With the seed changed, so that what is not taken from the checkpoint differs from it."""
    place = f"{source}-{target}"
    ended = workplace.run(target, workplace.trained(source), "seed=1", place=place)
    assert ended.code == 0, ended.err
    before, after = workplace.weights(source), workplace.weights(place)
    encoder = [name for name in before if name.startswith("model/encoder/")]
    assert len(encoder) > 20
    for name in encoder:
        np.testing.assert_allclose(after[name], before[name], atol=1e-6, err_msg=name)
    (head,) = (name for name in after if "classifier.Skernel" in name)
    keeps_head = target == "xnli"
    same_shape = head in before and after[head].shape == before[head].shape
    assert (same_shape and np.allclose(after[head], before[head], atol=1e-6)) is keeps_head
    log = next((workplace.runs / place).glob("*.log")).read_text()
    assert ("the head starts anew: it was for" in log) is not keeps_head


@pytest.mark.parametrize(
    ("mode", "source", "target"),
    [
        ("evaluate", "mnli", "rte"),
        slow("predict", "mnli", "stsb"),
        slow("evaluate", "squad", "mnli"),
        slow("evaluate", "mnli", "squad"),
        slow("predict", "sst2", "rte"),  # two classes each, and variables of the same names
    ],
)
def test_a_foreign_head_is_refused(workplace: Workplace, mode: str, source: str, target: str) -> None:
    place = f"{mode}-{source}-{target}"
    ended = workplace.run(target, workplace.trained(source), mode=mode, place=place)
    assert ended.code == 2
    assert f"init.checkpoint={workplace.runs}/{source} has the head of another task" in ended.err
    assert "Traceback" not in ended.err
    assert not (workplace.runs / place).exists(), "told before a run began"


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), [("mnli", "ax"), ("mnli", "xnli"), ("squad", "squad_v2")])
def test_a_head_that_was_asked_the_same_is_taken(workplace: Workplace, source: str, target: str) -> None:
    place = f"judged-{target}"
    ended = workplace.run(target, workplace.trained(source), mode="evaluate", place=place)
    assert ended.code == 0, ended.err


def test_which_heads_are_exchangeable() -> None:
    heads = {name: create_task(compose([*TASKS[name], "cache_dir=nowhere"])).head for name in TASKS}
    heads |= {dataset.name: glue.head(dataset) for dataset in glue.Dataset}
    assert heads["mnli"] == heads["ax"] == heads["xnli"]
    assert heads["squad"] == heads["squad_v2"]
    assert len(set(heads.values())) == 10  # nine data sets, and the span


def test_a_checkpoint_without_the_record_is_taken_whole(tmp_path: Path) -> None:
    """As older versions of this package wrote them, without manifests too."""
    config = toy.experiment(trainer__max_steps=1)
    task, run = toy.task(config, tmp_path), tmp_path / "run"
    toy.run(config, task, run)

    def settled(*, head: str) -> Account:
        weights, wanted = native_weights.read(run), task.variables(config.model)
        return account(weights, wanted=wanted, model=config.model, head=head, demand=Demand.whole, source="X")

    with pytest.raises(CheckpointError, match=r"of another task \(toy: a span\), and this one asks for x;"):
        settled(head="x")
    record = json.loads((run / native.MODEL_FILE).read_text())
    del record[native.HEAD]
    (run / native.MODEL_FILE).write_text(json.dumps(record))
    for file in (run / native.FOLDER).rglob("ckpt-*.json"):
        file.unlink()
    assert settled(head="x").initialised == ()
    assert native_weights.read(run).head == ""
