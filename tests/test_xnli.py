"""XNLI: three layouts, what is learnt from, accuracy by language, and the casing of its vocabulary."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import cast

import glue_files
import numpy as np
import pytest
from command_line import here

from mobilebert_exp import compose
from mobilebert_exp.data import xnli
from mobilebert_exp.errors import DataError
from mobilebert_exp.registry import create_task
from mobilebert_exp.tasks._classification import Classification, Places, Truth
from mobilebert_exp.tasks.base import Split
from mobilebert_exp.tasks.xnli import Config, XnliSource


def task(tmp_path: Path, *overrides: str) -> Classification:
    config = compose(["task=xnli", f"data_root={tmp_path}", *overrides])
    return cast(Classification, create_task(dataclasses.replace(config, cache_dir=str(tmp_path / "cache"))))


def source(tmp_path: Path, **settings: object) -> XnliSource:
    places = Places(data_root=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    return XnliSource(Config(kind="xnli", name="xnli", **settings), places)  # type: ignore[arg-type]


def translated(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("premise\thypo\tlabel", *rows)) + "\n", encoding="utf-8")


def test_xnlis_own_layout(tmp_path: Path) -> None:
    glue_files.xnli(tmp_path / "dev.tsv", {"en": 4, "de": 2})
    found = list(xnli.read(tmp_path / "dev.tsv"))
    assert [(each.part, each.id, each.label) for each in found] == [
        *(("en", str(number), number % 3) for number in range(4)),
        *(("de", str(number), (number + 4) % 3) for number in range(2)),
    ]
    assert [each.part for each in xnli.read(tmp_path / "dev.tsv", only=["de"])] == ["de", "de"]


def test_translations_and_their_word_for_contradiction(tmp_path: Path) -> None:
    translated(tmp_path / "de.tsv", 'Er "ging\tSie kam\tcontradictory', "A\tB\tneutral")
    found = list(xnli.read(tmp_path / "de.tsv", language="de", only=["de"]))
    assert [(each.text_a, each.text_b, each.label, each.part) for each in found] == [
        ('Er "ging', "Sie kam", 0, "de"),
        ("A", "B", 2, "de"),
    ]


def test_mnlis_layout_is_english(tmp_path: Path) -> None:
    glue_files.mnli(tmp_path, train=6)
    found = list(xnli.read(tmp_path / "glue/MNLI/train.tsv", only=["en"]))
    assert [(each.part, each.label) for each in found] == [("en", number % 3) for number in range(6)]


BROKEN = {
    "index\tsentence\n0\tA\n": (
        ", line 1: the header is none of XNLI's (language, gold_label, sentence1, sentence2), MNLI's (sentence1, "
        "sentence2, gold_label) or the translated files' (premise, hypo, label); name a file of one of them"
    ),
    "": " is empty; fetch the file again, or name another",
    "premise\thypo\tlabel\nA\tB\tneutrl\n": ", line 2: label 'neutrl' is unknown; did you mean neutral?",
    "premise\thypo\tlabel\nA\tB\t-\n": (
        ", line 2: label '-' is unknown; the labels are contradiction, entailment, neutral"
    ),
    "premise\thypo\tlabel\nA\tB\n": (
        ", line 2: 2 columns where 3 belong (premise, hypo, label); fetch the file again, or mend the line"
    ),
    "language\tgold_label\tsentence1\tsentence2\n\tneutral\tA\tB\n": (
        ", line 2: language '' is not a code such as en; correct it"
    ),
    "language\tgold_label\tsentence1\tsentence2\nde\tneutral\tA\tB\n": (
        " has no row in en; it has de; set task.train_languages to some of these, or name another file"
    ),
}


@pytest.mark.parametrize("content", BROKEN)
def test_what_is_broken_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as raised:
        list(xnli.read(tmp_path / "train.tsv", only=["en"]))
    assert str(raised.value) == f"{tmp_path}/train.tsv{BROKEN[content]}"


def test_an_english_file_is_no_german_one(tmp_path: Path) -> None:
    glue_files.mnli(tmp_path, train=6)
    with pytest.raises(DataError, match=r"train.tsv says no language, so it counts as en, which task.train_languages"):
        list(xnli.read(tmp_path / "glue/MNLI/train.tsv", only=["de"]))


def test_what_is_learnt_from(tmp_path: Path) -> None:
    english, mine, folder = tmp_path / "glue/MNLI/train.tsv", tmp_path / "mine.tsv", tmp_path / "xnli/multinli"
    translations = [folder / f"multinli.train.{language}.tsv" for language in xnli.LANGUAGES]
    for file in (english, mine, *translations):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert source(tmp_path).files(Split.train) == {"train": english}
    assert source(tmp_path, train_file=str(mine)).files(Split.train) == {"train": mine}
    some = source(tmp_path, translate_train=True, train_languages=["de", "fr"]).files(Split.train)
    assert some == {f"train_{each}": folder / f"multinli.train.{each}.tsv" for each in ("de", "fr")}
    assert len(source(tmp_path, translate_train=True).files(Split.train)) == 15
    translated(folder / "multinli.train.de.tsv", "A\tB\tneutral")
    translated(folder / "multinli.train.fr.tsv", "C\tD\tentailment", "E\tF\tcontradictory")
    examples = source(tmp_path, translate_train=True, train_languages=["de", "fr"]).examples(Split.train)
    assert [(each.part, each.text_a, each.label) for each in examples] == [
        ("de", "A", 2),
        ("fr", "C", 1),
        ("fr", "E", 0),
    ]


def test_what_is_judged(tmp_path: Path) -> None:
    dev, test = (tmp_path / f"xnli/xnli.{part}.tsv" for part in ("dev", "test"))
    missing = rf"^data_root={tmp_path} has no xnli/xnli.dev.tsv; put it there, or name a file in task.dev_file$"
    with pytest.raises(DataError, match=missing):
        source(tmp_path).files(Split.dev)
    dev.parent.mkdir()
    for file in (dev, test):
        file.touch()
    assert source(tmp_path).files(Split.dev) == {"dev": dev}
    assert source(tmp_path, eval_part=xnli.Part.test).files(Split.dev) == {"dev": test}
    assert source(tmp_path).files(Split.predict) == {"predict": test}


def test_accuracy_is_told_by_language_and_as_their_mean(tmp_path: Path) -> None:
    answers = [Truth(id=str(n), part=part, label=n % 3) for part, count in (("en", 4), ("ur", 2)) for n in range(count)]
    outputs = np.eye(3)[[0, 1, 2, 1, 1, 1]]
    evaluation = source(tmp_path).evaluate(answers, outputs, Split.dev)
    assert evaluation.metrics == {"accuracy": (75 + 50) / 2, "accuracy_en": 75.0, "accuracy_ur": 50.0}
    records = evaluation.files["predictions.json"]
    assert records["en-3"] == {"prediction": "entailment", "probability": pytest.approx(0.576, abs=1e-3),
                               "label": "contradiction"}  # fmt: skip
    unlabelled = [dataclasses.replace(truth, label=None) for truth in answers]
    predicted = source(tmp_path).evaluate(unlabelled, outputs, Split.predict)
    assert predicted.metrics == {}
    assert "label" not in predicted.files["predictions.json"]["ur-0"]


@pytest.mark.slow
def test_it_learns_from_one_language_and_is_judged_in_all(tmp_path: Path) -> None:
    """The invented languages share their words, so what is learnt of one holds for the others."""
    glue_files.vocabulary(tmp_path)
    glue_files.xnli(tmp_path / "train.tsv", {"en": 120, "de": 30})
    glue_files.xnli(tmp_path / "xnli/xnli.dev.tsv", {"en": 15, "sw": 12}, seed=1)
    glue_files.xnli(tmp_path / "xnli/xnli.test.tsv", {"zh": 6}, labelled=False, seed=2)
    settings = [
        *("task=xnli", "+preset=scratch", "task.max_seq_length=20", "tracking=none", "model.num_layers=1"),
        "model.initialization=structured",
        *(f"data_root={tmp_path}", f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache"),
        *(f"task.train_file={tmp_path}/train.tsv", "task.global_batch_size=20"),
    ]
    ended = here(
        *settings, "task.num_train_epochs=20", "task.optimizer.learning_rate=5e-3", f"hydra.run.dir={tmp_path}/run"
    )
    assert ended.code == 0, ended.err
    metrics = json.loads((tmp_path / "run/result.json").read_text())["metrics"]
    assert metrics["accuracy"] == pytest.approx((metrics["accuracy_en"] + metrics["accuracy_sw"]) / 2)
    assert min(metrics["accuracy_en"], metrics["accuracy_sw"]) >= 80
    assert "accuracy_de" not in metrics
    ended = here("mode=predict", *settings, f"init.checkpoint={tmp_path}/run", f"hydra.run.dir={tmp_path}/predicted")
    assert ended.code == 0, ended.err
    predictions = json.loads((tmp_path / "predicted/predictions/predictions.json").read_text())
    assert list(predictions) == [f"zh-{number}" for number in range(6)]


def test_real_files_equal_what_the_original_reads(shared_data: Path) -> None:
    from official.nlp.data import classifier_data_lib

    processor = classifier_data_lib.XnliProcessor(language="all")
    theirs = processor.get_dev_examples(str(shared_data / "xnli"))
    ours = list(xnli.read(shared_data / "xnli/xnli.dev.tsv"))
    assert [(a.text_a, a.text_b, a.label) for a in ours] == [
        (b.text_a, b.text_b, xnli.LABELS.index(b.label)) for b in theirs
    ]
    assert Counter(each.part for each in ours) == {"en": 2490, "sw": 2490, "ur": 2490, "de": 2489}
    by_language = processor.get_test_examples(str(shared_data / "xnli"))
    for language in ("en", "sw", "ur", "th", "vi", "zh", "de"):
        found = list(xnli.read(shared_data / "xnli/xnli.test.tsv", only=[language]))
        assert len(found) == 5010
        assert [each.text_a for each in found] == [each.text_a for each in by_language[language]]


def test_the_labels_stand_in_the_originals_order() -> None:
    from official.nlp.data import classifier_data_lib

    assert list(xnli.LABELS) == classifier_data_lib.XnliProcessor().get_labels()
    assert list(xnli.LANGUAGES) == classifier_data_lib.XnliProcessor.supported_languages
