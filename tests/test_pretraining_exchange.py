"""Records of ours and of tf-models' `create_pretraining_data` are of one kind: keys, types, lengths, statistics."""

from __future__ import annotations

import functools
import gzip
import importlib
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import documents
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from mobilebert_exp.data import example_reading, records
from mobilebert_exp.data.pretraining import feature_files, inputs
from mobilebert_exp.data.pretraining.build import Text
from mobilebert_exp.data.pretraining.rows import FLOATS, INTEGERS
from mobilebert_exp.data.pretraining.settings import BadBytes, Settings
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import DataError

TOKENIZER = documents.tokenizer()
SETTINGS = Settings(dupe_factor=1)
COUNT = 400


def original(folder: Path, text: Path, *, settings: Settings = SETTINGS, names: Sequence[str] = ("original.tfrecord",),
             **how: Any) -> list[Path]:  # fmt: skip
    """What tf-models' script makes of a text, without its command line."""
    from official.nlp.tools import tokenization

    script = _script()
    tokenizer = tokenization.FullTokenizer(str(documents.vocabulary(folder)), do_lower_case=True)
    instances = script.create_training_instances(
        [str(text)], tokenizer, script.get_processor_text_fn(False, True),
        settings.max_seq_length, settings.dupe_factor,
        settings.short_seq_prob, settings.masked_lm_prob, settings.max_predictions_per_seq,
        random.Random(settings.random_seed), settings.whole_word_mask,
    )  # fmt: skip
    files = [folder / name for name in names]
    how = {"gzip_compress": False, "use_v2_feature_names": False} | how
    script.write_instance_to_example_files(
        instances, tokenizer, settings.max_seq_length, settings.max_predictions_per_seq, list(map(str, files)), **how
    )
    return files


@functools.cache
def _script() -> Any:
    """tf-models' script. Another of its modules, which other tests load, defines flags of the same names."""
    known = set(flags.FLAGS)
    flags.FLAGS.remove_flag_values([name for name in ("vocab_file", "do_lower_case") if name in known])
    found = importlib.import_module("official.nlp.data.create_pretraining_data")
    flags.FLAGS.remove_flag_values(set(flags.FLAGS) - known | {"vocab_file", "do_lower_case"})
    return found


def ours(folder: Path, text: Path, *, settings: Settings = SETTINGS) -> list[Path]:
    corpus = inputs.corpus([text], bad_bytes=BadBytes.refuse)
    made = feature_files.made(Text(corpus=corpus, tokenizer=TOKENIZER, settings=settings), cache_dir=folder)
    return list(made.files)


@functools.cache
def both(place: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """All records of the same text, by column, read by TensorFlow."""
    text = documents.write(place / "a.txt", COUNT)
    return parsed(ours(place, text)), parsed(original(place, text))


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return both(tmp_path_factory.mktemp("both"))


def parsed(files: Sequence[Path], settings: Settings = SETTINGS) -> dict[str, np.ndarray]:
    """As tf-models' data loader and the original's `input_fn` parse them."""
    length, most = settings.max_seq_length, settings.max_predictions_per_seq
    spec = {name: tf.io.FixedLenFeature([length], tf.int64) for name in ("input_ids", "input_mask", "segment_ids")}
    spec |= {name: tf.io.FixedLenFeature([most], tf.int64) for name in ("masked_lm_positions", "masked_lm_ids")}
    spec["masked_lm_weights"] = tf.io.FixedLenFeature([most], tf.float32)
    spec["next_sentence_labels"] = tf.io.FixedLenFeature([1], tf.int64)
    (batch,) = tf.data.TFRecordDataset(list(map(str, files))).batch(10**6)
    return {name: value.numpy() for name, value in tf.io.parse_example(batch, spec).items()}


def test_every_record_has_the_original_keys_and_types(tmp_path: Path) -> None:
    text = documents.write(tmp_path / "a.txt", 20)
    found = []
    for files in (ours(tmp_path, text), original(tmp_path, text)):
        (raw, *_) = tf.data.TFRecordDataset(list(map(str, files))).as_numpy_iterator()
        features = tf.train.Example.FromString(raw).features.feature
        found.append({name: (value.WhichOneof("kind"), len(value.int64_list.value) or len(value.float_list.value))
                      for name, value in features.items()})  # fmt: skip
    assert found[0] == found[1]
    assert set(found[0]) == {*INTEGERS, *FLOATS}


def test_rows_are_alike_inside(columns: tuple[dict[str, np.ndarray], ...]) -> None:
    """What holds within each record of the original holds within ours."""
    for found in columns:
        ids, mask, segments = (found[name] for name in ("input_ids", "input_mask", "segment_ids"))
        used = mask.sum(axis=1)
        assert (mask == (np.arange(128) < used[:, None])).all()
        assert (ids[:, 0] == TOKENIZER.cls_id).all()
        assert (ids[mask == 0] == TOKENIZER.pad_id).all()
        assert (segments[mask == 0] == 0).all()
        assert (np.diff(segments, axis=1) == 1).sum(axis=1).max() == 1
        first = np.argmax(segments, axis=1)
        assert (np.take_along_axis(ids, first[:, None] - 1, axis=1) == TOKENIZER.sep_id).all()
        assert (np.take_along_axis(ids, used[:, None] - 1, axis=1) == TOKENIZER.sep_id).all()
        weights, places = found["masked_lm_weights"], found["masked_lm_positions"]
        assert set(np.unique(weights)) <= {0.0, 1.0}
        assert (weights == (np.arange(20) < weights.sum(axis=1)[:, None])).all()
        assert (weights.sum(axis=1) == np.clip(np.rint(used * 0.15), 1, 20)).all()
        assert (places[weights == 0] == 0).all()
        assert (found["masked_lm_ids"][weights == 0] == 0).all()
        assert (np.diff(np.where(weights > 0, places, 1000 + np.arange(20)), axis=1) > 0).all()
        assert set(np.unique(found["next_sentence_labels"])) == {0, 1}


def test_statistics_are_alike(columns: tuple[dict[str, np.ndarray], ...]) -> None:
    """Of the same text: how many records, how long, how many random ones; within five standard errors."""
    mine, theirs = columns
    count, other = len(mine["input_ids"]), len(theirs["input_ids"])
    assert abs(count - other) < 0.05 * other
    for measure in (
        lambda found: found["input_mask"].sum(axis=1),
        lambda found: found["segment_ids"].sum(axis=1),
        lambda found: found["next_sentence_labels"][:, 0],
        lambda found: found["masked_lm_weights"].sum(axis=1),
        lambda found: (found["input_ids"] == TOKENIZER.mask_id).sum(axis=1),
        lambda found: found["input_mask"].sum(axis=1) < 100,
    ):
        one, two = measure(mine).astype(float), measure(theirs).astype(float)
        error = math.sqrt(one.var() / count + two.var() / other)
        assert abs(one.mean() - two.mean()) < 5 * error


@pytest.mark.parametrize("whole_word", [False, True])
def test_the_original_reads_back_to_the_same_text(tmp_path: Path, whole_word: bool) -> None:
    """Unmasked, every first text of ours and of theirs is a piece of the same documents."""
    text = documents.write(tmp_path / "a.txt", 30)
    settings = Settings(max_seq_length=64, dupe_factor=2, whole_word_mask=whole_word, short_seq_prob=0.3)
    whole = " ".join(map(str, TOKENIZER.encode(text.read_text(encoding="utf-8"))))
    for files in (ours(tmp_path, text, settings=settings), original(tmp_path, text, settings=settings)):
        found = parsed(files, settings)
        ids = found["input_ids"].copy()
        is_masked = found["masked_lm_weights"] > 0
        rows = np.broadcast_to(np.arange(len(ids))[:, None], is_masked.shape)[is_masked]
        ids[rows, found["masked_lm_positions"][is_masked]] = found["masked_lm_ids"][is_masked]
        for row, segments in zip(ids.tolist(), found["segment_ids"].tolist(), strict=True):
            first = row[1 : segments.index(1) - 1]
            assert f" {' '.join(map(str, first))} " in f" {whole} "


def test_files_of_the_original_are_read(tmp_path: Path) -> None:
    text = documents.write(tmp_path / "a.txt", 30)
    files = original(tmp_path, text, names=("one.tfrecord", "two.tfrecord"))
    found = feature_files.read(files, tokenizer=TOKENIZER)
    assert found.records == len(parsed(files)["input_ids"])
    assert (found.files, found.max_seq_length, found.max_predictions_per_seq) == (tuple(files), 128, 20)
    assert inputs.made(files, TOKENIZER, Settings(), cache_dir=tmp_path) == found
    (record,) = example_reading.first(files[0], limit=1)
    raw = next(tf.data.TFRecordDataset(str(files[0])).as_numpy_iterator())
    for name, value in tf.train.Example.FromString(raw).features.feature.items():
        assert record[name].numbers == tuple(value.int64_list.value or value.float_list.value)


def _refused(files: Sequence[Path], message: str, *, tokenizer: Tokenizer = TOKENIZER) -> None:
    with pytest.raises(DataError) as error:
        feature_files.read(files, tokenizer=tokenizer)
    assert str(error.value) == message


def test_files_that_are_no_pretraining_records(tmp_path: Path) -> None:
    text = documents.write(tmp_path / "a.txt", 5)
    (good,) = original(tmp_path, text)
    content = good.read_bytes()
    (tmp_path / "text").write_text("one sentence a line\n", encoding="utf-8")
    _refused([tmp_path / "text"], f"{tmp_path}/text is no TFRecord file; name files of features")
    (tmp_path / "cut").write_bytes(content[:-9])
    _refused(
        [tmp_path / "cut"],
        f"{tmp_path}/cut ends within record {example_reading.count(good)}; fetch or make it anew",
    )
    at = content.index(content[:12], 12) if content[:12] in content[12:] else None
    start = 16 + int.from_bytes(content[:8], "little")
    (tmp_path / "torn").write_bytes(content[: start + 3] + b"\xff" + content[start + 4 :])
    assert at is None or at >= start
    _refused([tmp_path / "torn"], f"{tmp_path}/torn is damaged after record 1; fetch or make it anew")
    (tmp_path / "packed").write_bytes(gzip.compress(content))
    _refused(
        [tmp_path / "packed"],
        f"{tmp_path}/packed is compressed; unpack it (gunzip -S '' FILE), or write it without compression",
    )
    (tmp_path / "none").touch()
    _refused([tmp_path / "none"], f"{tmp_path}/none: there is no record in it; name other files")
    records.write(tmp_path / "other", [{"input_ids": [1, 2], "start_positions": [3]}])
    _refused([tmp_path / "other"], f"{tmp_path}/other: its records have no input_mask; name files for pre-training")
    records.write(tmp_path / "bytes", [b"no example"])
    _refused([tmp_path / "bytes"], f"{tmp_path}/bytes: record 1 is no tf.train.Example; name other files")


def test_newer_names_and_other_lengths_are_refused(tmp_path: Path) -> None:
    text = documents.write(tmp_path / "a.txt", 5)
    (newer,) = original(tmp_path, text, names=["newer"], use_v2_feature_names=True)
    _refused([newer], f"{newer} was written with --use_v2_feature_names; write it without, or name other files")
    (long,) = original(tmp_path, text, names=["long"])
    (short,) = original(tmp_path, text, names=["short"], settings=Settings(max_seq_length=64, dupe_factor=1))
    _refused(
        [long, short],
        f"{long} and 1 more: records of different lengths (64 tokens and 20 predictions, "
        "128 tokens and 20 predictions); name files that were made alike",
    )
    with pytest.raises(DataError) as error:
        inputs.made([long], TOKENIZER, Settings(max_seq_length=512), cache_dir=tmp_path)
    assert str(error.value) == (
        f"{long}: its records have max_seq_length=128 and max_predictions_per_seq=20, and 512 and 20 are asked for; "
        "set those of the records"
    )
    with pytest.raises(
        DataError, match=r"^task\.train_file: .*long holds records and .*a\.txt does not; name files of"
    ):
        inputs.files(f"{long},{text}", cache_dir=tmp_path)


def test_a_manifest_tells_of_another_vocabulary_of_the_same_size(tmp_path: Path) -> None:
    """Where every id is one of both, and [CLS] is the same; of files that lie elsewhere nothing is said."""
    corpus = inputs.corpus([documents.write(tmp_path / "a.txt", 5)], bad_bytes=BadBytes.refuse)
    made = feature_files.made_in(tmp_path / "data", Text(corpus=corpus, tokenizer=TOKENIZER, settings=SETTINGS))
    (file,) = made.files
    swapped = Tokenizer([*documents.pieces()[:-2], *documents.pieces()[:-3:-1]], lower_case=True)
    assert sorted(swapped.vocabulary) == sorted(TOKENIZER.vocabulary)
    _refused(
        [file],
        f"{file}: made with another vocabulary, as manifest.json beside it says; name the one they were made with in "
        "task.vocab_file",
        tokenizer=swapped,
    )
    assert feature_files.read([file], tokenizer=TOKENIZER).records == made.records
    elsewhere = tmp_path / file.name
    elsewhere.write_bytes(file.read_bytes())
    assert feature_files.read([elsewhere], tokenizer=swapped).records == made.records
    for other in ("[1", "[]", '{"files": {}}', "[" * 100_000):
        (tmp_path / "manifest.json").write_text(other, encoding="utf-8")
        assert feature_files.read([elsewhere], tokenizer=swapped).records == made.records
    told = (tmp_path / "data/manifest.json").read_text(encoding="utf-8")
    feature_files.manifest_of(elsewhere).write_text(told, encoding="utf-8")
    _refused(
        [elsewhere],
        f"{elsewhere}: made with another vocabulary, as manifest.{file.name}.json beside it says; name the one they "
        "were made with in task.vocab_file",
        tokenizer=swapped,
    )
    elsewhere.write_bytes(2 * file.read_bytes())
    assert feature_files.read([elsewhere], tokenizer=swapped).records == 2 * made.records, "it tells of another file"


def test_another_vocabulary_is_noticed(tmp_path: Path) -> None:
    (file,) = original(tmp_path, documents.write(tmp_path / "a.txt", 5))
    fewer = Tokenizer(documents.pieces()[:100], lower_case=True)
    with pytest.raises(DataError, match=r"made with another vocabulary \(id \d+, and this one has 100 entries, "):
        feature_files.read([file], tokenizer=fewer)
    turned = Tokenizer([*documents.pieces()[5:], *documents.pieces()[:5]], lower_case=True)
    with pytest.raises(
        DataError, match=r"made with another vocabulary \(records that begin with id 2, and this one has"
    ):
        feature_files.read([file], tokenizer=turned)
