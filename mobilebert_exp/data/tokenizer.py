"""BERT's WordPiece tokenizer, equal to the original token by token.

The Rust `tokenizers` library is not used here on purpose: it drops unassigned and private-use characters, misses the
final sigma and one CJK range, and knows another Unicode version than Python; for single words it is slower too.
tensorflow-text's FastBertTokenizer is fast only when it is given many texts at once, and needs TensorFlow in every
process that makes features. Here each distinct chunk of text is split once; docs/features.md has the figures.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from mobilebert_exp.errors import DataError

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_WORD_CHARS = 400  # a longer word is [UNK]; tf-models' limit (the first BERT release had 200)
_MEMO_CHUNKS = 2**17  # about 30 MB; then it is forgotten, so that memory does not grow with the data
# Only what every notion of whitespace agrees on; whatever else separates words is found within a chunk.
_CHUNK = re.compile(r"[^ \t\n\r]+")
_ASCII_WORD = re.compile(
    r"[A-Za-z0-9]+|[^A-Za-z0-9]"
)  # of a chunk of printable ASCII, where all the rules come to this
_T = TypeVar("_T")
_CJK = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class _CharacterMap(dict[int, str]):
    """A table for `str.translate` that computes an entry when it is first needed."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str:
        self[code] = self._rule(chr(code))
        return self[code]


def _clean(char: str) -> str:
    category = unicodedata.category(char)
    if char in " \t\n\r" or category == "Zs":
        return " "
    if char in "\0\ufffd" or category in ("Cc", "Cf"):
        return ""
    return f" {char} " if any(first <= ord(char) <= last for first, last in _CJK) else char


def _set_apart(char: str) -> str:
    is_ascii_symbol = "!" <= char <= "~" and not char.isalnum()
    return f" {char} " if is_ascii_symbol or unicodedata.category(char).startswith("P") else char


def _set_apart_without_accents(char: str) -> str:
    return "" if unicodedata.category(char) == "Mn" else _set_apart(char)


_CLEAN = _CharacterMap(_clean)
_PUNCTUATION = _CharacterMap(_set_apart)
_PUNCTUATION_AND_ACCENTS = _CharacterMap(_set_apart_without_accents)


class Memo(dict[str, _T]):
    """What a rule makes of a chunk, made once; faster than `functools.lru_cache` where nearly all is found."""

    def __init__(self, rule: Callable[[str], _T]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, chunk: str) -> _T:
        if len(self) >= _MEMO_CHUNKS:
            self.clear()
        self[chunk] = found = self._rule(chunk)
        return found


def chunks(text: str) -> list[str]:
    """What stands between blanks, tabs and line ends."""
    if text.isprintable():  # then blanks are all that `split` can find, and it is the quickest
        return text.split()
    return _CHUNK.findall(text)


def _chunk_words(chunk: str, lower_case: bool) -> Sequence[str]:
    if chunk.isascii() and chunk.isprintable():
        word = chunk.lower() if lower_case else chunk
        return (word,) if word.isalnum() else _ASCII_WORD.findall(word)
    text = chunk.translate(_CLEAN)
    if lower_case:
        text = unicodedata.normalize("NFD", text.lower()).translate(_PUNCTUATION_AND_ACCENTS)
    else:
        text = text.translate(_PUNCTUATION)
    return text.split()


def basic_words(text: str, *, lower_case: bool) -> list[str]:
    """Words and punctuation marks of a text, before WordPiece (the original's `BasicTokenizer`)."""
    return [word for chunk in chunks(text) for word in _chunk_words(chunk, lower_case)]


def _pieces(text: str) -> list[str]:
    """Of a vocabulary's file, a line each."""
    # Not splitlines: the multilingual vocabulary may hold characters that Unicode counts as line ends.
    return [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []


def digests(content: bytes, *, size: int, lower_case: bool | None) -> frozenset[str]:
    """Digests (see `Tokenizer`) that the tokenizer of a vocabulary's file may have; none where it is no vocabulary.

    Args:
      size: entries that it must have; a file of more or fewer tells nothing.
      lower_case: None where it is not known.
    """
    pieces = _pieces(content.decode(errors="replace"))
    if len(pieces) != size:
        return frozenset()
    try:
        cases = (True, False) if lower_case is None else (lower_case,)
        return frozenset(Tokenizer(pieces, lower_case=case).digest for case in cases)
    except DataError:
        return frozenset()


class Tokenizer:
    """A vocabulary and the rules by which text becomes its pieces.

    Attributes:
      vocabulary: pieces by id.
      lower_case: whether text is lower-cased and stripped of accents first.
      digest: sha256 of the vocabulary and `lower_case`: equal digests tokenise equally.
      pad_id, unk_id, cls_id, sep_id, mask_id: ids of the special tokens.
    """

    def __init__(self, vocabulary: Sequence[str], *, lower_case: bool) -> None:
        """Raises DataError when the vocabulary is empty, repeats a token or lacks a special one."""
        self.vocabulary = tuple(vocabulary)
        self.lower_case = lower_case
        self._ids = _index(self.vocabulary)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = self.ids(SPECIAL_TOKENS)
        content = "\n".join(self.vocabulary) + f"\nlower_case={lower_case}"
        self.digest = hashlib.sha256(content.encode()).hexdigest()
        self._longest_token = max(map(len, self.vocabulary))
        self._whole_words = {token: index for token, index in self._ids.items() if len(token) <= MAX_WORD_CHARS}
        self._continuing_pieces = {token[2:]: index for token, index in self._ids.items() if token.startswith("##")}
        self._word_ids = Memo(self._split_word)

    def __reduce__(self) -> tuple[Callable[..., Tokenizer], tuple[object, ...]]:
        """Another process gets the vocabulary and a memo of its own."""
        return functools.partial(Tokenizer, lower_case=self.lower_case), (self.vocabulary,)

    @classmethod
    def from_file(cls, path: str | Path, *, lower_case: bool) -> Tokenizer:
        """Reads one token a line; raises DataError when the file is missing or no vocabulary."""
        remedy = "name a BERT vocabulary in task.vocab_file"
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"vocabulary {path} cannot be read ({error.strerror}); {remedy}") from None
        except UnicodeDecodeError as error:
            raise DataError(f"vocabulary {path} is not UTF-8 at byte {error.start}; {remedy}") from None
        try:
            return cls(_pieces(text), lower_case=lower_case)
        except DataError as error:
            raise DataError(f"vocabulary {path}: {error}") from None

    def words(self, text: str) -> list[str]:
        """Words and punctuation marks, before WordPiece."""
        return basic_words(text, lower_case=self.lower_case)

    def tokens(self, text: str) -> list[str]:
        """WordPiece tokens; continuing pieces begin with `##`."""
        return self.named(self.encode(text))

    def encode(self, text: str) -> list[int]:
        """Ids of a text's tokens."""
        return list(itertools.chain.from_iterable(map(self._chunk_ids.__getitem__, chunks(text))))

    def encode_chunks(self, chunks: Iterable[str]) -> list[tuple[int, ...]]:
        """Ids of each chunk's tokens; a chunk is a text without blanks, tabs and line ends."""
        return list(map(self._chunk_ids.__getitem__, chunks))

    def plain_words(self) -> Iterator[tuple[str, int]]:
        """Pieces that, found in a text between blanks, are themselves; most words of a text are among them."""
        for token, index in self._whole_words.items():
            if token.isascii() and token.isalnum() and not (self.lower_case and token != token.lower()):
                yield token, index

    def split_chunk(self, chunk: str) -> tuple[int, ...]:
        """Ids of the tokens of one chunk; for those who remember chunks themselves."""
        words = _chunk_words(chunk, self.lower_case)
        if len(words) == 1:
            return self._word_ids[words[0]]
        return tuple(itertools.chain.from_iterable(map(self._word_ids.__getitem__, words)))

    @functools.cached_property
    def _chunk_ids(self) -> Memo[tuple[int, ...]]:
        known = Memo(self.split_chunk)
        known.update({token: (index,) for token, index in self.plain_words()})
        return known

    def ids(self, tokens: Iterable[str]) -> list[int]:
        """Ids of tokens that `tokens` returned."""
        return [self._ids[token] for token in tokens]

    def named(self, ids: Iterable[int]) -> list[str]:
        """Tokens by their ids."""
        return [self.vocabulary[index] for index in ids]

    def _split_word(self, word: str) -> tuple[int, ...]:
        """The longest piece of the vocabulary first, then the longest of the rest; [UNK] if nothing fits."""
        whole = self._whole_words.get(word)
        if whole is not None:
            return (whole,)
        if len(word) > MAX_WORD_CHARS:
            return (self.unk_id,)
        ids: list[int] = []
        pieces, start, size = self._whole_words, 0, len(word)
        while start < size:
            for end in range(min(size, start + self._longest_token), start, -1):
                index = pieces.get(word[start:end])
                if index is not None:
                    break
            else:
                return (self.unk_id,)
            ids.append(index)
            pieces, start = self._continuing_pieces, end
        return tuple(ids)


def _index(vocabulary: Sequence[str]) -> dict[str, int]:
    ids: dict[str, int] = {}
    for index, token in enumerate(vocabulary):
        if not token:
            raise DataError(f"line {index + 1} is blank; a vocabulary has one token a line")
        if token in ids:
            raise DataError(f"{token!r} stands on lines {ids[token] + 1} and {index + 1}; remove one")
        ids[token] = index
    if not ids:
        raise DataError("it is empty; a vocabulary has one token a line")
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise DataError(f"it lacks {', '.join(missing)}; a BERT vocabulary has {', '.join(SPECIAL_TOKENS)}")
    return ids
