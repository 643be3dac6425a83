"""Texts for pre-training as an index of segments: whole documents on end, found without keeping any text in memory.

A text has one sentence a line and a blank line between documents. Files are surveyed in pieces of some MiB, each by
whichever process is free: whether it is UTF-8, its digest, and where documents begin. From that, segments are mixed
over the whole corpus and dealt out to groups, one of which a process has in memory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mobilebert_exp.data import parallel
from mobilebert_exp.data.pretraining.settings import BadBytes
from mobilebert_exp.errors import DataError, MissingDataError

Read = Callable[[str, int, int], bytes]  # of a file, from a byte to another; fewer at its end

PIECE_BYTES = 8 * 2**20
LINE_BYTES = 2**20  # a longer line is no sentence
LEAST_SEGMENT, MOST_SEGMENT = 16 * 2**10, 256 * 2**10  # a document longer than the latter is cut
LEAST_GROUP, MOST_GROUP = 512 * 2**10, 16 * 2**20
SEGMENTS, GROUPS = 4096, 256  # of a corpus, between these bounds
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")
_NAMED = 5  # files in one message
_MIXING = 0  # which random numbers: those that mix segments; passes have their own


class Segment(NamedTuple):
    """Lines of a file, from a byte to another: whole documents, but of those that are longer than `MOST_SEGMENT`."""

    path: str
    start: int
    stop: int


@dataclass(kw_only=True, frozen=True, slots=True)
class Piece:
    """A part of a file; the lines that begin in it are its lines."""

    path: str
    start: int
    stop: int
    size: int
    target: int


@dataclass(kw_only=True, frozen=True, slots=True)
class Surveyed:
    """What is known of a piece.

    Attributes:
      digest: sha256 of its lines.
      lines: how many line ends it has.
      starts: bytes of the file at which segments may begin.
      cut: how many of them are amid a document.
      fault: a byte that cannot be, and how many line ends of the piece stand before it; None where all is well.
      is_binary: whether that byte is a NUL, which no text holds.
      is_blank: whether there is nothing but blanks.
    """

    piece: Piece
    digest: bytes
    lines: int
    starts: tuple[int, ...]
    cut: int
    fault: tuple[int, int] | None
    is_binary: bool
    is_blank: bool


@dataclass(kw_only=True, frozen=True, slots=True)
class Group:
    """The text of one shard of each pass, which is in memory at once."""

    number: int
    of: int
    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        return sum(segment.stop - segment.start for segment in self.segments)


@dataclass(kw_only=True, frozen=True, slots=True)
class Corpus:
    """Texts, surveyed.

    Attributes:
      digest: of what they hold, in order, whatever the files are called.
      size: bytes.
      segments: in the order of the files.
      cut_documents: how often a document was cut because it is longer than `MOST_SEGMENT`.
      dropped: files with bytes that are not UTF-8, which are dropped.
    """

    digest: str
    size: int
    segments: tuple[Segment, ...]
    cut_documents: int
    dropped: tuple[str, ...]


def local_read(path: str, start: int, stop: int) -> bytes:
    """Raises MissingDataError where no file is, DataError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(stop - start)
    except FileNotFoundError:
        raise MissingDataError(f"{path} is not there any more; name files that stay") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name a readable file") from None


def local_sizes(files: Sequence[Path]) -> dict[str, int]:
    """Bytes of each file, by its path; raises DataError for what is none."""
    sizes = {}
    for path in files:
        if not path.is_file():
            raise MissingDataError(f"{path} is no file; name files of plain text, or a pattern like {path}/*.txt")
        sizes[str(path)] = path.stat().st_size
    return sizes


def surveyed(sizes: dict[str, int], *, read: Read = local_read, workers: int | None = None) -> tuple[Surveyed, ...]:
    """The pieces of files, surveyed on every core; raises DataError for a line of more than `LINE_BYTES`."""
    with closing(parallel.ordered(Survey(read), pieces(sizes), workers=workers)) as found:
        return tuple(found)


def pieces(sizes: dict[str, int]) -> Iterator[Piece]:
    """The parts in which files are surveyed."""
    target = min(max(sum(sizes.values()) // SEGMENTS, LEAST_SEGMENT), MOST_SEGMENT)
    for path, size in sizes.items():
        for start in range(0, size, PIECE_BYTES):
            yield Piece(path=path, start=start, stop=min(start + PIECE_BYTES, size), size=size, target=target)


@dataclass(frozen=True, slots=True)
class Survey:
    """Surveys a piece."""

    read: Read

    def __call__(self, piece: Piece) -> Surveyed:
        first, content = _lines(piece, self.read)
        starts, cut = _starts(content, piece.target, is_first=piece.start == 0)
        nul = content.find(b"\0")
        fault = nul if nul >= 0 else _not_utf8(content)
        return Surveyed(
            piece=piece,
            digest=hashlib.sha256(content).digest(),
            lines=content.count(b"\n"),
            starts=tuple(first + start for start in starts),
            cut=cut,
            fault=None if fault is None else (first + fault, content.count(b"\n", 0, fault)),
            is_binary=nul >= 0,
            is_blank=not content.strip(),
        )


def _lines(piece: Piece, read: Read) -> tuple[int, bytes]:
    """The lines that begin in a piece, and the byte at which the first of them does."""
    first, content = piece.start, read(piece.path, max(piece.start - 1, 0), piece.stop)
    if piece.start:
        before, _, content = content.partition(b"\n")
        first = piece.start + len(before)
    if content and not content.endswith(b"\n"):
        rest = read(piece.path, piece.stop, piece.stop + LINE_BYTES)
        content += rest[: rest.find(b"\n") + 1 or None]
    ends = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
    begins = np.concatenate([[0], ends + 1])
    lengths = np.diff(begins, append=len(content))
    if lengths.max() > LINE_BYTES:
        at = first + int(begins[lengths.argmax()])
        raise DataError(
            f"{piece.path}: the line that begins at byte {at} has more than {LINE_BYTES:,} bytes, and a line is a "
            "sentence; put line ends into the file, one sentence a line"
        )
    return first, content


def _not_utf8(content: bytes) -> int | None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


def _starts(content: bytes, target: int, *, is_first: bool) -> tuple[list[int], int]:
    """Where segments may begin, and how many of these places are amid a document.

    A piece that is not its file's first begins amid a document, for all that is known of it here.
    """
    found, cut, at = [0] if is_first else [], 0, 0
    least = target if is_first else 0
    while True:
        blank = _BLANK_LINE.search(content, max(at + least - 1, 0), at + MOST_SEGMENT)
        if blank is not None:
            at = blank.end()
        elif len(content) - at <= MOST_SEGMENT:
            return [start for start in found if start < len(content)], cut
        else:
            at = (content.rfind(b"\n", at, at + MOST_SEGMENT) + 1) or content.find(b"\n", at) + 1 or len(content)
            cut += 1
        found.append(at)
        least = target


def joined(surveyed: Iterable[Surveyed], *, bad_bytes: BadBytes) -> Corpus:
    """What the pieces of all files come to, which are in the order of `pieces`.

    Raises:
      DataError: a file is no text (NUL bytes) or not UTF-8 (unless such bytes are dropped), or there is no text at all.
    """
    digest, segments, cut = hashlib.sha256(), list[Segment](), 0
    faulty: dict[str, str] = {}
    lines, path, is_blank, has_nul = 0, "", True, False
    for found in surveyed:
        piece = found.piece
        lines, path = (lines if piece.path == path else 0), piece.path
        is_blank, cut = is_blank and found.is_blank, cut + found.cut
        if found.fault is not None and (path not in faulty or found.is_binary):
            at, before = found.fault
            what = "NUL" if found.is_binary else "not UTF-8"
            faulty[path] = f"{path} (line {lines + before + 1}, byte {at}: {what})"
            has_nul |= found.is_binary
        lines += found.lines
        digest.update(found.digest)
        for start in found.starts:
            if segments and segments[-1].path == path:
                segments[-1] = segments[-1]._replace(stop=start)
            segments.append(Segment(path, start, piece.size))
    if faulty and (has_nul or bad_bytes is BadBytes.refuse):
        raise _no_text(faulty, has_nul=has_nul)
    if is_blank:
        raise DataError("the texts hold no sentence; name files with one sentence a line")
    return Corpus(
        digest=digest.hexdigest(),
        size=sum(segment.stop - segment.start for segment in segments),
        segments=tuple(segments),
        cut_documents=cut,
        dropped=tuple(faulty),
    )


def _no_text(faulty: dict[str, str], *, has_nul: bool) -> DataError:
    shown = ", ".join(list(faulty.values())[:_NAMED])
    more = f" and {len(faulty) - _NAMED} more" if len(faulty) > _NAMED else ""
    files = "1 file is" if len(faulty) == 1 else f"{len(faulty)} files are"
    convert = "leave out what is no text, convert the rest (iconv -f ISO-8859-1 -t UTF-8)"
    drop = "" if has_nul else ", or set bad_bytes=drop, as the original does"
    return DataError(f"{files} not UTF-8 text: {shown}{more}; {convert}{drop}")


def groups(corpus: Corpus, *, seed: int, least: int = 1) -> list[Group]:
    """The segments, mixed over the whole corpus by `seed` and dealt out evenly by bytes.

    Args:
      least: at least so many groups, some of them empty where the text does not suffice.
    """
    order = stream(seed, _MIXING).permutation(len(corpus.segments))
    wanted = min(max(corpus.size // GROUPS, LEAST_GROUP), MOST_GROUP)
    count = max(least, round(corpus.size / wanted), 1)
    dealt: list[list[Segment]] = [[] for _ in range(count)]
    before = 0
    for segment in (corpus.segments[index] for index in order):
        size = segment.stop - segment.start
        dealt[(2 * before + size) * count // (2 * corpus.size)].append(segment)
        before += size
    # Within a group in the order in which a disk reads them best; what is made of it is shuffled.
    return [Group(number=number, of=count, segments=tuple(sorted(part))) for number, part in enumerate(dealt)]


def stream(seed: int, *place: int) -> np.random.Generator:
    """Random numbers of their own for each place."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *place])))
