"""What a setting names as the input of pre-training: texts, made into records, or records as they are."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from mobilebert_exp.data import patterns, sources
from mobilebert_exp.data.pretraining import corpus as corpora
from mobilebert_exp.data.pretraining import feature_files
from mobilebert_exp.data.pretraining.build import Text
from mobilebert_exp.data.pretraining.feature_files import FeatureFiles
from mobilebert_exp.data.pretraining.settings import BadBytes, Settings
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import DataError, StorageError

log = logging.getLogger(__name__)


def files(named: str | Sequence[str], *, cache_dir: str | Path, key: str = "task.train_file") -> list[Path]:
    """The files that patterns mean (`data.patterns`): all of them texts, or all of them records.

    Manifests are neither; of records that come from a bucket those beside them are fetched too.

    Raises:
      DataError: a pattern means nothing, or both kinds are among the files.
    """
    matched = list(patterns.matched(named, key=key, cache_dir=cache_dir))
    found = [path for path in matched if not feature_files.is_manifest(path)] or matched
    records = [path for path in found if feature_files.are_records(path)]
    if records and len(records) < len(found):
        text = next(path for path in found if path not in set(records))
        raise DataError(f"{key}: {records[0]} holds records and {text} does not; name files of one kind")
    for folder in sorted({path.parent for path in records}):
        _fetch_manifests(folder, cache_dir)
    return found


@functools.cache
def _fetch_manifests(folder: Path, cache_dir: str | Path) -> None:
    """Once in a process, whatever comes of it: a bucket that is read and not listed refuses every time."""
    try:
        sources.fetch_beside(folder, feature_files.MANIFESTS, cache_dir=cache_dir)
    except StorageError as problem:
        log.warning("whether manifests lie beside the records in %s is not known (%s)", folder, problem)


def digest(files: Sequence[Path]) -> str:
    """Names what some files hold: of texts their whole content, of records what `feature_files.digest` looks at."""
    if feature_files.are_records(files[0]):
        return feature_files.digest(files)
    return corpus(files, bad_bytes=BadBytes.drop).digest


def made(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    settings: Settings,
    *,
    cache_dir: str | Path,
    name: str = "pre-training data",
) -> FeatureFiles:
    """Records of some files: made of texts, or found in the cache; of records, themselves.

    Raises:
      UserError: a text is none, records do not fit the vocabulary or the lengths, or the cache cannot be written.
    """
    if not feature_files.are_records(files[0]):
        text = Text(corpus=corpus(files, bad_bytes=settings.bad_bytes), tokenizer=tokenizer, settings=settings)
        return feature_files.made(text, cache_dir=cache_dir, name=name)
    found = feature_files.read(files, tokenizer=tokenizer)
    have = found.max_seq_length, found.max_predictions_per_seq
    if have != (settings.max_seq_length, settings.max_predictions_per_seq):
        raise DataError(
            f"{files[0]}: its records have max_seq_length={have[0]} and max_predictions_per_seq={have[1]}, and "
            f"{settings.max_seq_length} and {settings.max_predictions_per_seq} are asked for; set those of the records"
        )
    return found


def corpus(files: Sequence[Path], *, bad_bytes: BadBytes) -> corpora.Corpus:
    """Texts, surveyed; those that did not change meanwhile once."""
    stats = [path.stat() for path in files if path.is_file()]
    seen = tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)
    return corpora.joined(_surveyed(tuple(files), seen), bad_bytes=bad_bytes)


@functools.lru_cache(maxsize=8)
def _surveyed(files: tuple[Path, ...], seen: tuple[tuple[int, int], ...]) -> tuple[corpora.Surveyed, ...]:
    return corpora.surveyed(corpora.local_sizes(files))
