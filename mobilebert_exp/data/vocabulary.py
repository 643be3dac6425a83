"""Trains a WordPiece vocabulary, the same in every process.

The trainer of the Rust `tokenizers` library is not used: its ties are broken in the order of a randomly seeded hash
map, and five processes gave five vocabularies for one text. Its normaliser and pre-tokeniser are deterministic.
"""

from __future__ import annotations

import heapq
import string
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from mobilebert_exp.data.tokenizer import SPECIAL_TOKENS
from mobilebert_exp.errors import ConfigError

CONTINUES = "##"

_Pair = tuple[str, str]


def train(texts: Iterable[str], *, size: int, lower_case: bool = True) -> list[str]:
    """At most `size` pieces: the special tokens, every character, then pieces in the order in which they were merged.

    The most frequent neighbours are merged first, ties in alphabetical order. A piece that no word of `texts` needs
    any more once larger ones exist is left out, so the list ends where every repeated word is one piece.
    Raises ConfigError if `size` cannot hold the special tokens and the characters.
    """
    counts = _count_words(texts, lower_case=lower_case)
    alphabet = _alphabet(counts, lower_case=lower_case)
    room = size - len(SPECIAL_TOKENS) - len(alphabet)
    if room < 0:
        raise ConfigError(
            f"vocabulary size={size} cannot hold {len(SPECIAL_TOKENS)} special tokens and {len(alphabet)} characters; "
            f"raise it to at least {size - room}"
        )
    return [*SPECIAL_TOKENS, *alphabet, *_merge(counts, alphabet=set(alphabet), room=room)]


def _count_words(texts: Iterable[str], *, lower_case: bool) -> dict[str, int]:
    normalizer, splitter = BertNormalizer(lowercase=lower_case), BertPreTokenizer()
    fragments = Counter(fragment for text in texts for fragment in text.split())
    counts: Counter[str] = Counter()
    for fragment, count in fragments.items():
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(fragment)):
            counts[word] += count
    return dict(sorted(counts.items()))


def _alphabet(counts: dict[str, int], *, lower_case: bool) -> list[str]:
    """Every character that occurs and all of printable ASCII, at the start of a word and inside it.

    A punctuation mark is a word of its own, so it needs no form for the inside.
    """
    letters = string.ascii_lowercase + string.digits + ("" if lower_case else string.ascii_uppercase)
    first = set(letters) | set(string.punctuation) | {character for word in counts for character in word}
    inside = (first - set(string.punctuation)) | {character for word in counts for character in word[1:]}
    return [*sorted(first), *(CONTINUES + character for character in sorted(inside))]


def _merge(counts: dict[str, int], *, alphabet: set[str], room: int) -> list[str]:
    """Merges until no neighbours occur twice, or the pieces in use beyond the alphabet would exceed `room`."""
    words = [[word[0], *(CONTINUES + character for character in word[1:])] for word in counts]
    weights = list(counts.values())
    in_use = Counter(piece for word in words for piece in word)
    pairs: Counter[_Pair] = Counter()
    where: defaultdict[_Pair, set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pairs[pair] += weights[index]
            where[pair].add(index)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    merged: dict[str, None] = {}
    live = 0
    while heap and live < room:
        count, pair = heapq.heappop(heap)
        if -count != pairs[pair] or -count < 2:
            continue
        piece = pair[0] + pair[1].removeprefix(CONTINUES)
        touched = {piece, *pair} - alphabet
        live -= sum(in_use[name] > 0 for name in touched)
        changed = _apply(pair, piece, words=words, weights=weights, pairs=pairs, where=where, in_use=in_use)
        live += sum(in_use[name] > 0 for name in touched)
        merged[piece] = None
        for name in sorted(changed):
            if pairs[name] > 0:
                heapq.heappush(heap, (-pairs[name], name))
    return [piece for piece in merged if in_use[piece] > 0 and piece not in alphabet]


def _apply(
    pair: _Pair,
    piece: str,
    *,
    words: list[list[str]],
    weights: list[int],
    pairs: Counter[_Pair],
    where: defaultdict[_Pair, set[int]],
    in_use: Counter[str],
) -> set[_Pair]:
    """Merges `pair` in every word that holds it; returns the pairs whose counts changed."""
    changed: set[_Pair] = set()
    for index in where.pop(pair):
        old = words[index]
        new: list[str] = []
        for name in old:
            if new and (new[-1], name) == pair:
                new[-1] = piece
            else:
                new.append(name)
        for sign, word in ((-1, old), (1, new)):
            for name in word:
                in_use[name] += sign
            for neighbours in pairwise(word):
                pairs[neighbours] += sign * weights[index]
                changed.add(neighbours)
                if sign > 0:
                    where[neighbours].add(index)
        words[index] = new
    return changed
