"""Feature files for pre-training: made here and kept in the cache, or named by a person, whoever wrote them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mobilebert_exp.data import cache, example_reading, parallel
from mobilebert_exp.data.example_reading import Values
from mobilebert_exp.data.pretraining import build as building
from mobilebert_exp.data.pretraining.build import Counts, Text
from mobilebert_exp.data.pretraining.rows import FLOATS, INTEGERS
from mobilebert_exp.data.progress import BuildProgress
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import DataError

MANIFESTS = "manifest.*json"  # `cache.MANIFEST`, and what `manifest_of` names
_LOOKED_AT = 32  # records of a file
_END_BYTES = 2**16
_NEWER_NAMES = ("input_word_ids", "input_type_ids")  # of tf-models' --use_v2_feature_names


@dataclass(kw_only=True, frozen=True, slots=True)
class FeatureFiles:
    """Records to train on.

    Attributes:
      files: TFRecord files, in the order in which they are read.
      records: in all of them.
      max_seq_length, max_predictions_per_seq: of every record.
      digest: names what they hold; see `digest` for files that a person named.
      counts: what they were made from; None where a person named them.
    """

    files: tuple[Path, ...]
    records: int
    max_seq_length: int
    max_predictions_per_seq: int
    digest: str
    counts: Counts | None = None


def made(text: Text, *, cache_dir: str | Path, name: str = "pre-training data") -> FeatureFiles:
    """The records of a text, made now, or found in the cache; what a killed run had finished is not made again.

    Raises:
      UserError: as `build` does, or the cache cannot be written.
    """

    def build(folder: Path) -> dict[str, Any]:
        return filled(folder, text, name=name)

    folder, metadata = cache.cached(
        Path(cache_dir) / "features", key=text.key(), build=build, parts=cache.Parts(described=described)
    )
    return _found(folder, metadata, text)


def made_in(folder: Path, text: Text, *, name: str = "pre-training data") -> FeatureFiles:
    """As `made`, in a folder that a person named; raises OutputError where it holds something else."""

    def build(folder: Path) -> dict[str, Any]:
        return filled(folder, text, name=name)

    metadata = cache.filled(folder, key=text.key(), build=build, parts=cache.Parts(described=described))
    return _found(folder, metadata, text)


def filled(folder: Path, text: Text, *, name: str) -> dict[str, Any]:
    """Makes what is missing in a folder, tells how far it is, and returns the counts as they are kept."""
    with BuildProgress(name) as progress:

        def told(share: float, sentences: int) -> None:
            progress.read(share)
            progress.made(sentences)

        return asdict(building.build(folder, text, told=told))


def described(folder: Path) -> cache.Files:
    """What the files of a finished folder are, as its notes say."""
    return building.files_of(building.notes(folder))


def _found(folder: Path, metadata: dict[str, Any], text: Text) -> FeatureFiles:
    counts = Counts(**metadata)
    return FeatureFiles(
        files=tuple(sorted(folder.glob("*.tfrecord"))),
        records=counts.records,
        max_seq_length=text.settings.max_seq_length,
        max_predictions_per_seq=text.settings.max_predictions_per_seq,
        digest=cache.key_digest(text.key()),
        counts=counts,
    )


def read(files: Sequence[Path], *, tokenizer: Tokenizer | None = None) -> FeatureFiles:
    """Files that a person named, of this package or of the original's `create_pretraining_data.py`.

    Args:
      tokenizer: the vocabulary they should have been made with, as far as records and manifests beside them show it.

    Raises:
      DataError: a file is none of these, is damaged, differs from the first one in its lengths, or was made with
        another vocabulary; or there is no record.
    """
    with closing(parallel.ordered(_look, list(files))) as results:
        looked = dict(zip(files, results, strict=True))
    sizes = {found[1:] for found in looked.values() if found[0]}
    shapes = sorted({size[:2] for size in sizes})
    if not shapes:
        raise DataError(f"{_shown(files)}: there is no record in it; name other files")
    if len(shapes) > 1:
        told = ", ".join(f"{length} tokens and {most} predictions" for length, most in shapes)
        raise DataError(f"{_shown(files)}: records of different lengths ({told}); name files that were made alike")
    if tokenizer is not None:
        _check_ids(files, sizes, tokenizer)
        _check_manifests(files, tokenizer)
    return FeatureFiles(
        files=tuple(files),
        records=sum(found[0] for found in looked.values()),
        max_seq_length=shapes[0][0],
        max_predictions_per_seq=shapes[0][1],
        digest=digest(files),
    )


def are_records(path: Path) -> bool:
    """Whether a file looks like records, not like text; an empty one does not."""
    with example_reading.opened(path, compressed=True) as file:
        head = file.read(example_reading.HEAD_BYTES)
    return head.startswith(example_reading.GZIP) or example_reading.is_head(head)


def manifest_of(file: Path) -> Path:
    """What tells of one file of records, where it is not one of a folder that a manifest tells of."""
    return file.with_name(f"manifest.{file.name}.json")


def is_manifest(path: Path) -> bool:
    """Whether a file, by its name, tells of records beside it."""
    return fnmatchcase(path.name, MANIFESTS)


def digest(files: Sequence[Path]) -> str:
    """sha256 of the sizes, the beginnings and the ends of files: all of them would take too long."""
    found = hashlib.sha256()
    for path in files:
        with example_reading.opened(path, compressed=True) as file:
            size = file.seek(0, os.SEEK_END)
            found.update(size.to_bytes(8, "little"))
            for at in (0, max(0, size - _END_BYTES)):
                file.seek(at)
                found.update(file.read(_END_BYTES))
    return found.hexdigest()


def _look(path: Path) -> tuple[int, int, int, int, int]:
    """Of a file: records; their tokens and predictions, the id they begin with and the largest seen, if it has any."""
    length = most = begin = largest = 0
    for record in example_reading.first(path, limit=_LOOKED_AT):
        _check_names(path, record)
        ids = record["input_ids"].numbers
        length, most, begin = len(ids), len(record["masked_lm_ids"].numbers), int(ids[0])
        largest = max(largest, *map(int, ids), *map(int, record["masked_lm_ids"].numbers))
    return example_reading.count(path), length, most, begin, largest


def _check_names(path: Path, record: dict[str, Values]) -> None:
    if set(_NEWER_NAMES) & set(record):
        raise DataError(f"{path} was written with --use_v2_feature_names; write it without, or name other files")
    missing = [name for name in (*INTEGERS, *FLOATS) if name not in record]
    if missing:
        raise DataError(f"{path}: its records have no {missing[0]}; name files for pre-training")
    is_wrong = any(record[name].is_float != (name in FLOATS) for name in (*INTEGERS, *FLOATS))
    by_token, by_place = INTEGERS[:3], (*INTEGERS[3:5], *FLOATS)
    if is_wrong or any(len({len(record[name].numbers) for name in names}) > 1 for names in (by_token, by_place)):
        raise DataError(f"{path}: the fields of its records do not fit together; name files for pre-training")


def _check_ids(files: Sequence[Path], sizes: Iterable[tuple[int, ...]], tokenizer: Tokenizer) -> None:
    for _, _, begin, largest in sizes:
        if largest >= len(tokenizer.vocabulary) or begin != tokenizer.cls_id:
            size = len(tokenizer.vocabulary)
            what = f"id {largest}" if largest >= size else f"records that begin with id {begin}"
            raise DataError(
                f"{_shown(files)}: made with another vocabulary ({what}, and this one has {size:,} entries, [CLS] is "
                f"{tokenizer.cls_id}); name the one they were made with in task.vocab_file"
            )


def _check_manifests(files: Sequence[Path], tokenizer: Tokenizer) -> None:
    """Of files that lie where they were made, or went elsewhere with their manifest."""
    folders = {folder: _read(folder / cache.MANIFEST) for folder in {path.parent for path in files}}
    wrong: dict[str, list[Path]] = {}  # by the manifest that says so
    for path in files:
        own, name = manifest_of(path), cache.MANIFEST
        if (told := _vocabulary(path, _read(own))) is not None:
            name = own.name
        else:
            told = _vocabulary(path, folders[path.parent])
        if told not in (None, tokenizer.digest):
            wrong.setdefault(name, []).append(path)
    if wrong:
        name, others = next(iter(wrong.items()))
        raise DataError(
            f"{_shown(others)}: made with another vocabulary, as {name} beside it says; name the one they were made "
            "with in task.vocab_file"
        )


def _read(manifest: Path) -> Any:
    try:
        return json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _vocabulary(path: Path, manifest: Any) -> Any:
    """The digest of the one that a file was made with; None where a manifest does not tell of it, as it is."""
    try:
        is_told_of = manifest["files"][path.name]["bytes"] == path.stat().st_size
        return manifest["key"]["vocabulary"] if is_told_of else None
    except (LookupError, TypeError):
        return None


def _shown(files: Sequence[Path]) -> str:
    return f"{files[0]} and {len(files) - 1} more" if len(files) > 1 else str(files[0])
