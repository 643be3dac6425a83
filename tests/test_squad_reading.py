"""SQuAD files are read as the original reads them, and what is wrong with a file is said in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import originals
import pytest
import squad_rows

from mobilebert_exp.errors import DataError

CONTEXT = "Mira\u202fVale built the\u00a0bell tower (1904-1907). The bell tower stands in Orlen."


def _question(name: str, text: str, start: int, **more: Any) -> dict[str, Any]:
    return {"id": name, "question": f"{name}?", "answers": [{"text": text, "answer_start": start}]} | more


def _file() -> dict[str, Any]:
    questions = [
        _question("who", "Mira\u202fVale", 0),
        _question("what", "bell tower", CONTEXT.index("bell"), kind="lookup"),
        _question("when", "1907", CONTEXT.index("1907")),
    ]
    return {"version": "1.1", "data": [{"title": "Orlen", "paragraphs": [{"context": CONTEXT, "qas": questions}]}]}


def _write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_an_example_holds_what_the_file_says(tmp_path: Path) -> None:
    who, what, when = squad_rows.read(_write(tmp_path, _file()), version_2=False)
    assert who.words[:4] == ("Mira", "Vale", "built", "the\u00a0bell")
    assert (who.start_word, who.end_word) == (0, 1)
    assert (what.start_word, what.end_word) == (3, 4)
    assert (when.start_word, when.end_word) == (5, 5)
    assert when.words[5] == "(1904-1907)."
    assert (what.id, what.title, what.question, what.answers) == ("what", "Orlen", "what?", ("bell tower",))
    assert (who.kind, what.kind) == ("", "lookup")
    assert all(example.is_trainable and not example.is_impossible for example in (who, what, when))
    assert who.words is what.words is when.words


@pytest.mark.parametrize("version_2", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_reading_equals_the_original(tmp_path: Path, seed: int, version_2: bool) -> None:
    path = _write(tmp_path, originals.invent(seed, paragraphs=40, version_2=version_2))
    ours = squad_rows.read(path, version_2=version_2)
    for training in (False, True):
        found = [example for example in ours if not training or example.is_trainable]
        expected = originals.squad_examples(path, version_2=version_2, training=training)
        assert [example.id for example in found] == [example.qas_id for example in expected]
        assert [example.question for example in found] == [example.question_text for example in expected]
        assert [list(example.words) for example in found] == [example.doc_tokens for example in expected]
        if training:
            spans = [(example.start_position, example.end_position) for example in expected]
            assert [(example.start_word, example.end_word) for example in found] == spans
            assert [example.is_impossible for example in found] == [example.is_impossible for example in expected]
            texts = ["".join(example.answers[:1]) for example in found]
            assert texts == [example.orig_answer_text for example in expected]


def test_the_invented_files_have_answers_off_their_offset(tmp_path: Path) -> None:
    examples = squad_rows.read(_write(tmp_path, originals.invent(0, paragraphs=40)), version_2=False)
    assert 0 < sum(not example.is_trainable for example in examples) < len(examples) / 2


@pytest.mark.parametrize("name", ["train-v1.1", "dev-v1.1", "train-v2.0", "dev-v2.0"])
def test_shared_files_are_read_as_the_original_reads_them(shared_data: Path, tmp_path: Path, name: str) -> None:
    version_2 = name.endswith("v2.0")
    path = shared_data / f"squad/{name}.json"
    ours = squad_rows.read(path, version_2=version_2)
    single = originals.with_one_answer(path, to=tmp_path / "single.json")
    expected = originals.squad_examples(single, version_2=version_2, training=True)
    assert len(ours) == {"train-v1.1": 4705, "dev-v1.1": 2231, "train-v2.0": 6261, "dev-v2.0": 2298}[name]
    for example, original in zip(ours, expected, strict=True):
        assert example.id == original.qas_id
        assert list(example.words) == original.doc_tokens
        assert (example.start_word, example.end_word) == (original.start_position, original.end_position)
        assert example.is_impossible == original.is_impossible
        assert "".join(example.answers[:1]) == original.orig_answer_text


def test_an_answer_off_its_offset_is_left_out(tmp_path: Path) -> None:
    """How many there are, the task tells: see `test_squad_features.py`."""
    content = _file()
    content["data"][0]["paragraphs"][0]["qas"][1]["answers"][0]["answer_start"] = 0
    examples = squad_rows.read(_write(tmp_path, content), version_2=False)
    assert [example.is_left_out for example in examples] == [False, True, False]
    assert not examples[1].is_trainable
    assert examples[1].answers == ("bell tower",)


def test_an_answer_may_be_spaced_otherwise_than_its_context(tmp_path: Path) -> None:
    content = _file()
    content["data"][0]["paragraphs"][0]["context"] = CONTEXT.replace("bell tower (", "bell \n tower (")
    content["data"][0]["paragraphs"][0]["qas"].pop()
    content["data"][0]["paragraphs"][0]["qas"][1]["answers"][0]["text"] = "bell tower (1904"
    what = squad_rows.read(_write(tmp_path, content), version_2=False)[1]
    assert (what.start_word, what.end_word) == (3, 5)


def test_all_answers_are_kept(tmp_path: Path) -> None:
    content = _file()
    content["data"][0]["paragraphs"][0]["qas"][2]["answers"].append({"text": "in 1907", "answer_start": 0})
    assert squad_rows.read(_write(tmp_path, content), version_2=False)[2].answers == ("1907", "in 1907")


def test_plausible_answers_of_an_impossible_question_are_no_answers(tmp_path: Path) -> None:
    content = _file()
    content["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = True
    path = _write(tmp_path, content)
    who, what, _ = squad_rows.read(path, version_2=True)
    assert who.is_impossible and who.is_trainable
    assert (who.answers, who.start_word, who.end_word) == ((), -1, -1)
    assert not what.is_impossible
    with pytest.raises(DataError, match=r"article 'Orlen': question 'who': .*only SQuAD v2.0 has; use task=squad_v2$"):
        squad_rows.read(path, version_2=False)


def test_a_v1_file_is_a_v2_file_without_impossible_questions(tmp_path: Path) -> None:
    path = _write(tmp_path, _file())
    assert squad_rows.read(path, version_2=True) == squad_rows.read(path, version_2=False)


def test_questions_without_answers_can_only_be_predicted(tmp_path: Path) -> None:
    content = _file()
    del content["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    path = _write(tmp_path, content)
    for version_2 in (False, True):
        with pytest.raises(DataError, match="question 'who': it has no answer; give it one"):
            squad_rows.read(path, version_2=version_2)
        who = squad_rows.read(path, version_2=version_2, labelled=False)[0]
        assert (who.answers, who.is_impossible, who.is_trainable) == ((), False, False)


def _change(*path: str | int, value: object = None) -> Callable[[Any], None]:
    """Sets, or without a value deletes, one place of a file."""

    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        if value is None:
            del content[path[-1]]
        else:
            content[path[-1]] = value

    return change


QUESTION = ("data", 0, "paragraphs", 0, "qas", 1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_change("data"), "squad.json: 'data' is missing; restore SQuAD's layout"),
        (_change("data", value={}), "'data' is dict, not list"),
        (_change("data", 0, value="x"), "article 1: str where an object with 'title' belongs"),
        (_change("data", 0, "paragraphs"), "article 'Orlen': 'paragraphs' is missing"),
        (_change("data", 0, "paragraphs", 0, "context"), "article 'Orlen': 'context' is missing"),
        (_change("data", 0, "paragraphs", 0, "qas", value=3), "article 'Orlen': 'qas' is int, not list"),
        (
            _change(*QUESTION, "id"),
            "article 'Orlen': question 2 about 'Mira\\u202fVale built the\\xa0bell tower': 'id' is",
        ),
        (_change(*QUESTION, "question"), "article 'Orlen': question 'what': 'question' is missing"),
        (_change(*QUESTION, "is_impossible", value="no"), "question 'what': 'is_impossible' is str, not bool"),
        (_change(*QUESTION, "answers", value=[]), "question 'what': it has no answer; give it one"),
        (_change(*QUESTION, "answers", 0, "text", value=" "), "question 'what': its answer is blank; give the text"),
        (
            _change(*QUESTION, "answers", 0, "text", value="harp"),
            "answer 'harp' is not in its context; correct the text",
        ),
        (_change(*QUESTION, "answers", 0, "answer_start"), "question 'what': 'answer_start' is missing"),
        (_change(*QUESTION, "answers", 0, "answer_start", value=True), "'answer_start' is bool, not int"),
        (_change(*QUESTION, "answers", 0, "answer_start", value=-1), "answer_start=-1 puts 'bell tower' outside its"),
        (
            _change(*QUESTION, "answers", 0, "answer_start", value=70),
            "outside its context of 75 characters; correct it",
        ),
        (_change(*QUESTION, "id", value="who"), "article 'Orlen': question 'who': its id stands twice; give every"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(tmp_path: Path, change: Callable[[Any], None], complaint: str) -> None:
    content = copy.deepcopy(_file())
    change(content)
    path = _write(tmp_path, content)
    with pytest.raises(DataError) as error:
        squad_rows.read(path, version_2=False)
    assert str(error.value).startswith(str(path))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_cut_anywhere_is_refused_and_says_where(tmp_path: Path) -> None:
    text = json.dumps(_file(), ensure_ascii=False)
    path = tmp_path / "squad.json"
    for size in range(0, len(text), 7):
        path.write_text(text[:size], encoding="utf-8")
        with pytest.raises(
            DataError, match=r"squad.json is (cut short|not JSON .*) at line 1, column.*; fetch it again"
        ):
            squad_rows.read(path, version_2=False)
    path.write_text(text[: text.index("when?")], encoding="utf-8")
    with pytest.raises(
        DataError, match=r"is cut short at line 1, column .*, after article 'Orlen', question 'when'; f"
    ):
        squad_rows.read(path, version_2=False)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "squad.json"
    with pytest.raises(DataError, match=r"squad.json does not exist; set data_root"):
        squad_rows.read(path, version_2=False)
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        squad_rows.read(tmp_path, version_2=False)
    path.write_bytes(b'{"data": "\xff"}')
    with pytest.raises(DataError, match="is not UTF-8 at byte 10"):
        squad_rows.read(path, version_2=False)
    path.write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"is not JSON \(Expecting value\) at line 1, column 1; fetch it again"):
        squad_rows.read(path, version_2=False)
