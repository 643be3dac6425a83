"""Pre-training data, made: groups of segments become one shard of each pass, in worker processes that write them.

What a group becomes is a function of its text, the settings and the seed alone: the number of workers, and whether a
run was killed in between, change no byte. A group is done when its note is there; everything is written under another
name, synced and renamed, so that a killed run goes on with the groups that have none.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mobilebert_exp.data import parallel, records
from mobilebert_exp.data.pretraining import corpus as corpora
from mobilebert_exp.data.pretraining import masking, pairs
from mobilebert_exp.data.pretraining.corpus import Corpus, Group
from mobilebert_exp.data.pretraining.rows import MOST_INTEGER, Serializer
from mobilebert_exp.data.pretraining.settings import Settings
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import DataError

log = logging.getLogger(__name__)
NOTES = "groups"  # a folder beside the shards: what each group became
_BATCH_TOKENS = 2**18  # rows × tokens that are masked at once
_PASSES = 1  # which random numbers; 0 mixes the segments


@dataclass(kw_only=True, frozen=True, slots=True)
class Counts:
    """What was read and written; a pass over the text counts its documents and sentences once."""

    documents: int = 0
    sentences: int = 0
    tokens: int = 0
    records: int = 0
    random_next: int = 0
    masked: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})


@dataclass(kw_only=True, frozen=True, slots=True)
class Shard:
    """A finished file: its name, size and sha256."""

    name: str
    bytes: int
    sha256: str


@dataclass(kw_only=True, frozen=True, slots=True)
class Made:
    """What a group became."""

    group: int
    counts: Counts
    shards: tuple[Shard, ...]

    @property
    def name(self) -> str:
        """Of the note that says so."""
        return note_name(self.group)

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def parse(cls, text: str) -> Made:
        record = json.loads(text)
        shards = tuple(Shard(**each) for each in record["shards"])
        return cls(group=record["group"], counts=Counts(**record["counts"]), shards=shards)


def note_name(group: int) -> str:
    """The note of a group, which is written when its shards are whole."""
    return f"{NOTES}/{group:05d}.json"


class Disk(Protocol):
    """Where texts are read and shards written; an instance can be pickled."""

    def read(self, path: str, start: int, stop: int) -> bytes:
        """Bytes of a text; fewer at its end."""

    def note(self, name: str) -> str | None:
        """The content of a small file among the shards; None where there is none."""

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        """Writes a file among the shards, whole or not at all."""


@dataclass(frozen=True, slots=True)
class LocalDisk:
    """The folder of the shards, on this machine."""

    folder: Path

    def read(self, path: str, start: int, stop: int) -> bytes:
        return corpora.local_read(path, start, stop)

    def note(self, name: str) -> str | None:
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        records.write_framed(self.folder / name, parts)


@dataclass(kw_only=True, frozen=True, slots=True)
class Writer:
    """Makes of a group its shards, one of each pass, and its note; what has a note is not made again."""

    tokenizer: Tokenizer
    settings: Settings
    disk: Disk

    def __call__(self, group: Group) -> Made:
        found = self.disk.note(note_name(group.number))
        if found is not None:
            return Made.parse(found)
        texts = (self.disk.read(*segment) for segment in group.segments)
        block = pairs.tokenised(texts, self.tokenizer)
        counts = Counts(documents=block.num_documents, sentences=block.num_sentences, tokens=len(block.tokens))
        shards = []
        for number in range(self.settings.dupe_factor):
            tally = _Tally(name=shard_name(group, number))
            rng = corpora.stream(self.settings.random_seed, _PASSES, number, group.number)
            self.disk.write(tally.name, tally.watched(made(block, self.tokenizer, self.settings, rng)))
            shards.append(tally.shard())
            counts += tally.counts
        result = Made(group=group.number, counts=counts, shards=tuple(shards))
        self.disk.write(result.name, [result.text().encode()])
        return result


def shard_name(group: Group, number: int) -> str:
    """By pass, then by group: the order in which shards are read."""
    return f"pass-{number:02d}-shard-{group.number:05d}-of-{group.of:05d}.tfrecord"


def made(
    block: pairs.Block, tokenizer: Tokenizer, settings: Settings, rng: np.random.Generator
) -> Iterator[tuple[masking.Rows, bytes]]:
    """One pass over a block, shuffled: rows and their records, some thousands at a time. Pure."""
    vocabulary = _vocabulary(tokenizer)
    serialize = Serializer(
        max_seq_length=settings.max_seq_length, max_predictions_per_seq=settings.max_predictions_per_seq
    )
    found_N5 = pairs.paired(block, settings, rng)
    found_N5 = pairs.cut(found_N5[rng.permutation(len(found_N5))], room=settings.room, rng=rng)
    size = max(1, _BATCH_TOKENS // settings.max_seq_length)
    for start in range(0, len(found_N5), size):
        rows = masking.masked(block.tokens, found_N5[start : start + size], vocabulary, settings, rng)
        yield rows, serialize(rows)


@functools.lru_cache(maxsize=2)
def _vocabulary(tokenizer: Tokenizer) -> masking.Vocabulary:
    return masking.Vocabulary.of(tokenizer)


@dataclass(kw_only=True, slots=True)
class _Tally:
    """What goes by on its way to a file."""

    name: str
    counts: Counts = Counts()
    size: int = 0
    digest: Any = None

    def watched(self, parts: Iterable[tuple[masking.Rows, bytes]]) -> Iterator[bytes]:
        self.digest = hashlib.sha256()
        for rows, content in parts:
            self.digest.update(content)
            self.size += len(content)
            self.counts += Counts(
                records=len(rows.used_N), random_next=int(rows.is_random_N.sum()), masked=int(rows.masked_N.sum())
            )
            yield content

    def shard(self) -> Shard:
        return Shard(name=self.name, bytes=self.size, sha256=self.digest.hexdigest())


@dataclass(kw_only=True, frozen=True, slots=True)
class Text:
    """What data are to be made of; all that they depend on.

    Attributes:
      least_groups: see `corpus.groups`.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    settings: Settings
    least_groups: int = 1

    def key(self) -> dict[str, object]:
        """Names the data: JSON-serialisable."""
        return {
            **{"task": "pretraining", "text": self.corpus.digest, "vocabulary": self.tokenizer.digest},
            **{"settings": self.settings.key(), "least_groups": self.least_groups},
        }

    def groups(self) -> list[Group]:
        return corpora.groups(self.corpus, seed=self.settings.random_seed, least=self.least_groups)


def build(folder: Path, text: Text, *, told: Callable[[float, int], None], workers: int | None = None) -> Counts:
    """Makes the shards that are missing in `folder`; returns what all of them hold.

    Args:
      folder: of these data alone: what is finished in it is taken as it is.
      told: gets the share of the text that is done, and the sentences in it, from time to time.
      workers: see `parallel.ordered`.

    Raises:
      DataError: there is no sentence in the text, or the vocabulary is too large.
      OutputError: the folder cannot be written.
      WorkerError: a worker process was killed.
    """
    if len(text.tokenizer.vocabulary) > MOST_INTEGER:
        raise DataError(f"the vocabulary has more than {MOST_INTEGER:,} entries; name another in vocab_file")
    for warning in warnings(text):
        log.warning("%s", warning)
    (folder / NOTES).mkdir(exist_ok=True)
    _swept(folder)
    groups = text.groups()
    writer = Writer(tokenizer=text.tokenizer, settings=text.settings, disk=LocalDisk(folder))
    counts, done = Counts(), 0
    with closing(parallel.ordered(writer, groups, workers=workers)) as results:
        for group, result in zip(groups, results, strict=True):
            counts += result.counts
            done += group.size
            told(done / text.corpus.size, counts.sentences)
    check_counts(counts)
    return counts


def _swept(folder: Path) -> None:
    """Takes away what a process that was killed had begun, and notes of shards that are not there whole."""
    for torn in (*folder.glob(".*.tmp"), *folder.glob(f"{NOTES}/.*.tmp")):
        torn.unlink(missing_ok=True)
    for path in (folder / NOTES).glob("*.json"):
        try:
            made = Made.parse(path.read_text(encoding="utf-8"))
            is_whole = all((folder / shard.name).stat().st_size == shard.bytes for shard in made.shards)
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            is_whole = False
        if not is_whole:
            path.unlink()


def warnings(text: Text) -> Iterator[str]:
    """What a person should know of a text before it takes hours."""
    if cut := text.corpus.cut_documents:
        yield (
            f"documents of more than {corpora.MOST_SEGMENT // 1024} KiB are cut, in {cut} places; "
            "put blank lines between documents"
        )
    if dropped := text.corpus.dropped:
        yield f"bytes that are not UTF-8 are dropped in {len(dropped)} files, the first of them {dropped[0]}"


def check_counts(counts: Counts) -> None:
    """Warns of what was learnt from the text as a whole; raises DataError where it gave no record."""
    if not counts.records:
        raise DataError("the texts hold no sentence; name files with one sentence a line")
    if counts.documents == 1:
        log.warning("the text is one document, and random sentences are its own; put blank lines between documents")


def notes(folder: Path) -> list[Made]:
    """What the groups of a folder that `build` filled became."""
    return [Made.parse(path.read_text(encoding="utf-8")) for path in (folder / NOTES).glob("*.json")]


def files_of(notes: Iterable[Made]) -> dict[str, dict[str, Any]]:
    """Size and sha256 of all that `Writer` wrote, by name."""
    found: dict[str, dict[str, Any]] = {}
    for note in notes:
        content = note.text().encode()
        found[note.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        found |= {shard.name: {"bytes": shard.bytes, "sha256": shard.sha256} for shard in note.shards}
    return dict(sorted(found.items()))
