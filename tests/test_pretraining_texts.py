"""Texts are surveyed in pieces: segments are the whole text once, whatever the pieces, and what is no text is named."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import documents
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilebert_exp.data import patterns
from mobilebert_exp.data.pretraining import corpus as corpora
from mobilebert_exp.data.pretraining import inputs, pairs
from mobilebert_exp.data.pretraining.corpus import Corpus
from mobilebert_exp.data.pretraining.settings import BadBytes
from mobilebert_exp.errors import DataError, MissingDataError, UserError
from mobilebert_exp.storage.bucket import Bucket
from mobilebert_exp.storage.place import Place

TOKENIZER = documents.tokenizer()
BOOKS_NOT_UTF8 = {"chesterton-ball.txt", "shakespeare-caesar.txt"}


def surveyed(*files: Path, bad_bytes: BadBytes = BadBytes.refuse) -> Corpus:
    sizes = corpora.local_sizes(files)
    return corpora.joined(corpora.surveyed(sizes, workers=1), bad_bytes=bad_bytes)


def texts(corpus: Corpus) -> list[bytes]:
    return [corpora.local_read(*segment) for segment in corpus.segments]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which a few kilobytes are many pieces, segments and groups."""
    monkeypatch.setattr(corpora, "PIECE_BYTES", 3000)
    monkeypatch.setattr(corpora, "LEAST_SEGMENT", 300)
    monkeypatch.setattr(corpora, "MOST_SEGMENT", 2500)
    monkeypatch.setattr(corpora, "LEAST_GROUP", 1500)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_segments_are_whole_documents_and_the_text_once(tmp_path: Path, line_end: str) -> None:
    files = [documents.write(tmp_path / f"{number}.txt", 30, seed=number, sentences=(1, 6)) for number in range(3)]
    for file in files:
        file.write_bytes(file.read_bytes().replace(b"\n", line_end.encode()))
    found = surveyed(*files)
    assert len(found.segments) > 20
    assert found.cut_documents == 0
    assert found.size == sum(file.stat().st_size for file in files)
    for file in files:
        assert (
            b"".join(corpora.local_read(*part) for part in found.segments if part.path == str(file))
            == file.read_bytes()
        )
    whole = pairs.tokenised([file.read_bytes() for file in files], TOKENIZER)
    parts = pairs.tokenised(texts(found), TOKENIZER)
    assert (parts.documents, parts.sentences) == (whole.documents, whole.sentences)
    assert (parts.tokens == whole.tokens).all()


@pytest.mark.usefixtures("small")
@given(seed=st.integers(0, 10**6))
def test_any_bytes_are_cut_between_lines_and_none_is_lost(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = random.Random(seed)
    lines = [
        b"x" * rng.choice([0, 0, 1, 30, 400, 900]) + rng.choice([b"", b"\r", b" \t"]) for _ in range(rng.randint(1, 40))
    ]
    content = b"\n".join(lines)
    path = tmp_path_factory.mktemp("texts") / "a.txt"
    path.write_bytes(content + b"end")
    parts = texts(surveyed(path))
    assert b"".join(parts) == content + b"end"
    assert all(before.endswith(b"\n") for before, _ in pairwise(parts))
    assert max(map(len, parts)) < 2 * 2500 + 1000, "memory is bounded"


@pytest.mark.usefixtures("small")
def test_a_document_longer_than_a_segment_is_cut_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("bada bafa.\n" * 2000, encoding="utf-8")
    found = surveyed(path)
    assert found.cut_documents == len(found.segments) - 1 > 5
    assert pairs.tokenised(texts(found), TOKENIZER).num_sentences == 2000


@pytest.mark.usefixtures("small")
def test_groups_hold_every_segment_once_mixed_and_about_as_much_each(tmp_path: Path) -> None:
    file = documents.write(tmp_path / "a.txt", 300, sentences=(1, 6))
    found = surveyed(file)
    groups = corpora.groups(found, seed=1)
    dealt = [segment for group in groups for segment in group.segments]
    assert sorted(dealt) == sorted(found.segments)
    assert len(groups) > 10
    assert {group.of for group in groups} == {len(groups)}
    assert max(group.size for group in groups) < 2 * found.size / len(groups)
    spread = [
        max(part.start for part in group.segments) - min(part.start for part in group.segments) for group in groups
    ]
    assert sum(spread) / len(spread) > found.size / 3, "from all over the corpus"
    assert groups == corpora.groups(found, seed=1) != corpora.groups(found, seed=2)
    assert len(corpora.groups(found, seed=1, least=500)) == 500


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    one, two = (documents.write(tmp_path / name, 3) for name in ("a.txt", "b.txt"))
    assert surveyed(one).digest == surveyed(two).digest
    two.write_text(two.read_text(encoding="utf-8") + "more\n", encoding="utf-8")
    assert surveyed(one).digest != surveyed(two).digest == inputs.digest([two])


@pytest.mark.usefixtures("small")
def test_what_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    good = documents.write(tmp_path / "good.txt", 40)
    latin, other = tmp_path / "latin.txt", tmp_path / "other.txt"
    latin.write_bytes(good.read_bytes() + "\nno caf\xe9 here\n".encode("latin-1"))
    other.write_bytes(b"\xff\xfeb\n")
    line = good.read_bytes().count(b"\n") + 2
    at = good.stat().st_size + 7
    with pytest.raises(DataError) as error:
        surveyed(good, latin, other)
    assert str(error.value) == (
        f"2 files are not UTF-8 text: {latin} (line {line}, byte {at}: not UTF-8), {other} (line 1, byte 0: not UTF-8)"
        "; leave out what is no text, convert the rest (iconv -f ISO-8859-1 -t UTF-8), or set bad_bytes=drop, as the "
        "original does"
    )
    assert surveyed(good, latin, other, bad_bytes=BadBytes.drop).dropped == (str(latin), str(other))


def test_a_binary_file_among_the_texts_is_refused_whatever_is_dropped(tmp_path: Path) -> None:
    good, binary = documents.write(tmp_path / "good.txt", 3), tmp_path / "model.bin"
    binary.write_bytes(b"PK\x03\x04\n\0\0\xff")
    for bad_bytes in BadBytes:
        with pytest.raises(DataError) as error:
            surveyed(good, binary, bad_bytes=bad_bytes)
        assert str(error.value) == (
            f"1 file is not UTF-8 text: {binary} (line 2, byte 5: NUL); leave out what is no text, convert the rest "
            "(iconv -f ISO-8859-1 -t UTF-8)"
        )


def test_many_bad_files_are_one_line(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.txt" for number in range(9)]
    for file in files:
        file.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"^9 files are not UTF-8 text: .* and 4 more; leave"):
        surveyed(*files)


def test_a_line_longer_than_a_sentence_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "LINE_BYTES", 5000)
    path = tmp_path / "a.txt"
    path.write_bytes(b"bada.\n" * 10 + b"b" * 5000 + b"\nbada.\n")
    with pytest.raises(DataError) as error:
        surveyed(path)
    assert str(error.value) == (
        f"{path}: the line that begins at byte 60 has more than 5,000 bytes, and a line is a sentence; put line ends "
        "into the file, one sentence a line"
    )
    monkeypatch.setattr(corpora, "PIECE_BYTES", 1000)  # it is in no piece as a whole
    with pytest.raises(DataError, match="the line that begins at byte 60 has more than"):
        surveyed(path)


@pytest.mark.parametrize("content", [b"", b"\n\n \n\r\n"])
def test_texts_without_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^the texts hold no sentence; name files with one sentence a line$"):
        surveyed(path)


def test_an_empty_file_among_others_changes_nothing(tmp_path: Path) -> None:
    good, empty = documents.write(tmp_path / "good.txt", 3), tmp_path / "empty.txt"
    empty.touch()
    assert surveyed(empty, good, empty).segments == surveyed(good).segments


def test_patterns_name_files_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.txt", "a.txt", "c.md", "deep/d.txt", "odd[1].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)

    def found(*named: str) -> list[str]:
        return [str(path) for path in patterns.matched(list(named), key="k", cache_dir=tmp_path)]

    assert found("c.md, *.txt") == ["c.md", "a.txt", "b.txt", "odd[1].txt"]
    assert found("a.txt", "?.txt") == ["a.txt", "b.txt"]
    assert found("**/*.txt") == ["a.txt", "b.txt", "deep/d.txt", "odd[1].txt"]
    assert found("odd[1].txt") == ["odd[1].txt"]
    for named in ("x*", "deep", "a.txt,x.txt"):
        with pytest.raises(MissingDataError, match=r"^k=(x\*|deep|x\.txt) means no file; name files that are there$"):
            found(named)
    with pytest.raises(DataError, match=r"^k is empty; name files, or a pattern like texts/\*\.txt$"):
        found(" , ")


@pytest.mark.usefixtures("cloud")
def test_patterns_reach_into_buckets(tmp_path: Path, place: Place) -> None:
    bucket = Bucket(place.bucket)
    for name in ("wiki/a.txt", "wiki/b.txt", "wiki/deep/c.txt", "wiki/d.md"):
        bucket.write((place / name).name, name.encode(), generation=0)
    found = patterns.matched(f"{place}/wiki/*.txt", key="k", cache_dir=tmp_path)
    assert [path.read_text(encoding="utf-8") for path in found] == ["wiki/a.txt", "wiki/b.txt"]
    (one,) = patterns.matched(f"{place}/wiki/deep/c.txt", key="k", cache_dir=tmp_path)
    assert one.read_text(encoding="utf-8") == "wiki/deep/c.txt"
    for named in ("x/*.txt", "wiki/x.txt"):
        with pytest.raises(UserError, match=r"means no file|is not there"):
            patterns.matched(f"{place}/{named}", key="k", cache_dir=tmp_path)


def test_real_books(shared_data: Path) -> None:
    books = sorted((shared_data / "books").glob("*.txt"))
    with pytest.raises(DataError, match=r"^2 files are not UTF-8 text: ") as error:
        surveyed(*books)
    assert {book.name for book in books if str(book) in str(error.value)} == BOOKS_NOT_UTF8
    found = surveyed(*(book for book in books if book.name not in BOOKS_NOT_UTF8))
    assert found.size > 6_000_000
    assert len(found.segments) > 300
