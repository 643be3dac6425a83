"""Windows equal the original featuriser's, field by field."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import originals
import pytest
import squad_rows

from mobilebert_exp.data import squad, squad_features
from mobilebert_exp.data.squad_features import Sizes
from mobilebert_exp.data.squad_windows import Window, windows
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import ConfigError

SHARED = ("train-v1.1", "dev-v1.1", "train-v2.0", "dev-v2.0")
FIELDS = [
    *("unique_id", "example_index", "doc_span_index", "tokens", "token_to_orig_map", "token_is_max_context"),
    *("input_ids", "input_mask", "segment_ids", "start_position", "end_position", "is_impossible"),
]


def _assert_equal(ours: Sequence[Window], expected: Sequence[Any]) -> None:
    assert len(ours) == len(expected)
    for window, original in zip(ours, expected, strict=True):
        fields = squad_rows.spelled(window)
        for name in FIELDS:
            assert getattr(fields, name) == getattr(original, name), (name, original.unique_id)


def _assert_written(records: Iterable[bytes], expected: Sequence[Any], *, training: bool) -> None:
    """What the product writes is what the original's windows hold; the fields above are spelled out by the tests."""
    import tensorflow as tf

    for record, original in zip(records, expected, strict=True):
        features = tf.train.Example.FromString(record).features.feature
        row = {name: list(value.int64_list.value) for name, value in features.items()}
        assert row.pop("unique_ids") == [original.unique_id]
        for name in ("input_ids", "input_mask", "segment_ids"):
            assert row.pop(name) == original.__dict__[name], (name, original.unique_id)
        answer = [original.start_position, original.end_position, int(original.is_impossible)]
        keys = ("start_positions", "end_positions", "is_impossible")
        assert row == ({key: [value] for key, value in zip(keys, answer, strict=True)} if training else {})


def _compare(path: Path, vocab_file: Path, *, version_2: bool, training: bool, sizes: dict[str, int]) -> list[Window]:
    import tensorflow as tf

    tokenizer = Tokenizer.from_file(vocab_file, lower_case=True)
    examples = squad_rows.read(path, version_2=version_2)
    if training:  # the original counts only what it trains on
        examples = [example for example in examples if example.is_trainable]
    ours = list(windows(examples, tokenizer, training=training, **sizes))
    expected = originals.squad_windows(
        originals.squad_examples(path, version_2=version_2, training=training),
        originals.tokenizer(vocab_file, lower_case=True),
        training=training,
        **sizes,
    )
    _assert_equal(ours, expected)
    file = path.with_suffix(".tfrecord")
    squad_features.write(
        file, iter(examples), tokenizer, sizes=Sizes(**sizes), training=training, made=lambda count: None, workers=1
    )
    _assert_written(tf.data.TFRecordDataset(str(file)).as_numpy_iterator(), expected, training=training)
    return ours


@pytest.fixture
def vocab_file(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(originals.vocabulary()) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("training", [True, False], ids=["training", "prediction"])
@pytest.mark.parametrize("version_2", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize(
    ("max_seq_length", "doc_stride", "max_query_length"),
    [(384, 128, 64), (64, 16, 12), (40, 5, 12), (24, 100, 10), (9, 1, 5)],
)
def test_invented_questions_give_the_originals_windows(
    tmp_path: Path,
    vocab_file: Path,
    max_seq_length: int,
    doc_stride: int,
    max_query_length: int,
    version_2: bool,
    training: bool,
) -> None:
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(originals.invent(max_seq_length, version_2=version_2, paragraphs=8)), encoding="utf-8")
    sizes = {"max_seq_length": max_seq_length, "doc_stride": doc_stride, "max_query_length": max_query_length}
    found = _compare(path, vocab_file, version_2=version_2, training=training, sizes=sizes)
    assert any(window.doc_span_index for window in found) or max_seq_length == 384
    assert any(window.start_position for window in found) == training


def test_long_contexts_give_the_originals_windows(tmp_path: Path, vocab_file: Path) -> None:
    """Last windows from full to a stride shorter, where the hundredth of a length decides between contexts."""
    paragraphs = []
    for length in range(400, 560, 5):
        answer = {"answer_start": 0, "text": "tower"}
        # An odd room beside one question and an even one beside another: only in one of them contexts differ by one.
        question = {"id": f"q{length}", "question": "who built" if length % 2 else "who", "answers": [answer]}
        paragraphs.append({"context": "tower" + " old" * length, "qas": [question]})
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"title": "long", "paragraphs": paragraphs}]}), encoding="utf-8")
    sizes = {"max_seq_length": 384, "doc_stride": 128, "max_query_length": 64}
    found = _compare(path, vocab_file, version_2=False, training=True, sizes=sizes)
    assert len(found) > 2 * len(paragraphs)


def test_the_original_windows_of_a_phone_benchmark(shared_data: Path) -> None:
    """They are of real v1.1 questions, all of which the shared files hold."""
    import tensorflow as tf

    examples: dict[str, squad.SquadExample] = {}
    for name in SHARED[:2]:
        read = squad_rows.read(shared_data / f"squad/{name}.json", version_2=False)
        examples.update({example.id: example for example in read})
    tokenizer = Tokenizer.from_file(shared_data / "vocab/bert_uncased_vocab.txt", lower_case=True)
    path = str(shared_data / "squad/windows_mini.tfrecord")
    records = [
        tf.train.Example.FromString(record).features.feature
        for record in tf.data.TFRecordDataset(path, compression_type="ZLIB").as_numpy_iterator()
    ]
    ids = [record["qas_id"].bytes_list.value[0].decode() for record in records]
    wanted = [examples[name] for name in dict.fromkeys(ids) if name in examples]
    sizes = {"max_seq_length": 384, "doc_stride": 128, "max_query_length": 64}
    found = {
        (wanted[window.example_index].id, window.doc_span_index): window
        for window in windows(wanted, tokenizer, training=False, **sizes)
    }
    spans: dict[str, int] = {}
    matched = 0
    for name, record in zip(ids, records, strict=True):
        window = found.get((name, spans.setdefault(name, 0)))
        spans[name] += 1
        if window is None:
            continue
        matched += 1
        fields = squad_rows.spelled(window)
        for field in ("input_ids", "input_mask", "segment_ids"):
            assert getattr(fields, field) == list(record[field].int64_list.value), (name, field)
        assert [token.encode() for token in fields.tokens] == list(record["tokens"].bytes_list.value)
        assert list(fields.token_to_orig_map.values()) == list(record["token_to_orig_map"].int64_list.value)
        assert window.context_is_best == list(map(bool, record["token_is_max_context"].int64_list.value))
    print(f"matched {matched} of {len(records)} windows")
    assert matched == len(records) == 100


@pytest.mark.parametrize("name", SHARED)
def test_some_shared_questions_give_the_originals_windows(shared_data: Path, tmp_path: Path, name: str) -> None:
    content = json.loads((shared_data / f"squad/{name}.json").read_text(encoding="utf-8"))
    content["data"] = [
        {"title": article["title"], "paragraphs": article["paragraphs"][:2]} for article in content["data"][-6:]
    ]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    _compare_shared(path, shared_data, tmp_path, version_2=name.endswith("v2.0"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_all_shared_questions_give_the_originals_windows(shared_data: Path, tmp_path: Path, name: str) -> None:
    _compare_shared(shared_data / f"squad/{name}.json", shared_data, tmp_path, version_2=name.endswith("v2.0"))


def _compare_shared(path: Path, shared_data: Path, tmp_path: Path, *, version_2: bool) -> None:
    vocab_file = shared_data / "vocab/bert_uncased_vocab.txt"
    sizes = {"max_seq_length": 384, "doc_stride": 128, "max_query_length": 64}
    for training in (True, False):
        single = originals.with_one_answer(path, to=tmp_path / "single.json")
        found = _compare(single, vocab_file, version_2=version_2, training=training, sizes=sizes)
        print(f"{path.name}: {len(found)} windows are equal")


def _example(context: str, question: str = "who", *, name: str = "q", answer: str = "") -> squad.SquadExample:
    words = tuple(context.split())
    place = words.index(answer) if answer else -1
    return squad.SquadExample(
        id=name,
        title="",
        question=question,
        words=words,
        answers=(answer,) if answer else (),
        start_word=place,
        end_word=place,
        is_impossible=False,
    )


def _tokenizer() -> Tokenizer:
    return Tokenizer(originals.vocabulary(), lower_case=True)


def test_a_question_that_fills_the_sequence_is_refused() -> None:
    example = _example("the old tower", "who built the old tower near the river", name="q7")
    with pytest.raises(ConfigError) as error:
        list(windows([example], _tokenizer(), max_seq_length=8, doc_stride=2, max_query_length=64, training=False))
    assert str(error.value) == (
        "task.max_seq_length=8 has no room for text beside question 'q7' of 8 tokens; "
        "raise it, or lower task.max_query_length=64"
    )


@pytest.mark.parametrize("doc_stride", [0, -3])
def test_a_stride_that_does_not_move_is_refused(doc_stride: int) -> None:
    with pytest.raises(ConfigError, match=f"^task.doc_stride={doc_stride} does not move the window; raise it$"):
        list(
            windows(
                [_example("the old tower")],
                _tokenizer(),
                max_seq_length=16,
                doc_stride=doc_stride,
                max_query_length=8,
                training=False,
            )
        )


def test_every_token_is_best_in_one_window_and_no_token_is_lost() -> None:
    example = _example("the old tower near the river was built by old people " * 9)
    found = list(windows([example], _tokenizer(), max_seq_length=30, doc_stride=7, max_query_length=8, training=False))
    best = [
        window.word_at(position)
        for window in found
        for position, is_best in enumerate(window.context_is_best, start=window.context_start)
        if is_best
    ]
    assert len(found) > 5
    assert sorted(best) == list(range(len(example.words)))


def test_a_context_without_tokens_has_no_window() -> None:
    examples = [_example("\u200b \u200d", name="empty"), _example("the tower")]
    found = list(windows(examples, _tokenizer(), max_seq_length=16, doc_stride=4, max_query_length=8, training=False))
    assert [window.example_index for window in found] == [1]


def test_rows_carry_the_original_keys() -> None:
    (window,) = windows(
        [_example("the old tower", answer="tower")],
        _tokenizer(),
        max_seq_length=12,
        doc_stride=4,
        max_query_length=8,
        training=True,
    )
    assert squad_rows.spelled(window).tokens == ["[CLS]", "who", "[SEP]", "the", "old", "tower", "[SEP]"]
    row = squad_rows.row(window, training=True)
    assert list(row) == (
        ["unique_ids", "input_ids", "input_mask", "segment_ids", "start_positions", "end_positions", "is_impossible"]
    )
    assert row["unique_ids"] == [1_000_000_000]
    assert row["input_mask"] == [1] * 7 + [0] * 5
    assert row["segment_ids"] == [0] * 3 + [1] * 4 + [0] * 5
    assert (row["start_positions"], row["end_positions"], row["is_impossible"]) == ([5], [5], [0])
    assert list(squad_rows.row(window, training=False)) == ["unique_ids", "input_ids", "input_mask", "segment_ids"]


def test_a_thousand_real_questions_are_quick(shared_data: Path) -> None:
    examples = squad_rows.read(shared_data / "squad/dev-v1.1.json", version_2=False)[:1000]
    tokenizer = Tokenizer.from_file(shared_data / "vocab/bert_uncased_vocab.txt", lower_case=True)
    begin = time.process_time()
    count = sum(
        1 for _ in windows(examples, tokenizer, max_seq_length=384, doc_stride=128, max_query_length=64, training=True)
    )
    seconds = time.process_time() - begin
    print(f"{len(examples) / seconds:.0f} examples/s")
    assert count >= len(examples)
    assert len(examples) / seconds > 1500  # tf-models' featuriser makes about 550 where ours makes 10,000
