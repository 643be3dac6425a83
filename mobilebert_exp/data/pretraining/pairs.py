"""From sentences to pairs of texts, as the original pairs them: half go on, half are followed by another text.

A pair is four places in the block's tokens; no token is copied here. Where the original takes the second text of a
random pair from any other document, here it comes from any other of the same block, a group of segments from the whole
corpus.

Shapes: N pairs; 5 columns: where the first text begins and ends, where the second does, 1 if it is a random one.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilebert_exp.data.pretraining.settings import Settings
from mobilebert_exp.data.tokenizer import Tokenizer

_DRAWS = 4096  # uniform numbers made at a time
_SHORTEST = 2  # tokens that a sequence is cut to at least, when it is a short one


@dataclass(kw_only=True, frozen=True, slots=True)
class Block:
    """Documents, tokenised.

    Attributes:
      tokens: ids of all sentences on end.
      sentences: where each sentence begins in `tokens`; then where the last ends. None is empty.
      documents: where each document begins in `sentences`; then where the last ends. None is empty.
    """

    tokens: NDArray[np.int32]
    sentences: list[int]
    documents: list[int]

    @property
    def num_sentences(self) -> int:
        return len(self.sentences) - 1

    @property
    def num_documents(self) -> int:
        return len(self.documents) - 1


def tokenised(texts: Iterable[bytes], tokenizer: Tokenizer) -> Block:
    """The documents of some texts, each of which begins one; bytes that are not UTF-8 are dropped.

    A sentence without a token is none, and a document without a sentence is none.
    """
    parts: list[NDArray[np.int32]] = []
    sentences, documents, before = [0], [0], 0
    for text in texts:
        tokens: list[int] = []
        for line in text.decode(errors="ignore").split("\n"):
            line = line.strip()
            if line:
                tokens += tokenizer.encode(line)
                if before + len(tokens) > sentences[-1]:
                    sentences.append(before + len(tokens))
            elif len(sentences) - 1 > documents[-1]:
                documents.append(len(sentences) - 1)
        if len(sentences) - 1 > documents[-1]:
            documents.append(len(sentences) - 1)
        parts.append(np.array(tokens, np.int32))
        before += len(tokens)
    return Block(tokens=np.concatenate([np.empty(0, np.int32), *parts]), sentences=sentences, documents=documents)


def paired(block: Block, settings: Settings, rng: np.random.Generator) -> NDArray[np.int64]:
    """The pairs of one pass over a block, `[N, 5]`, in the order of its documents; texts may be too long yet."""
    draw = _uniform(rng).__next__
    found = array("q")
    for document in range(block.num_documents):
        target = settings.room
        if draw() < settings.short_seq_prob:
            target = _SHORTEST + int(draw() * (settings.room - _SHORTEST + 1))
        _pair_document(block, document, target, draw, found)
    return np.frombuffer(found, np.int64).reshape(-1, 5)


def _pair_document(block: Block, document: int, target: int, draw: Callable[[], float], found: array[int]) -> None:
    """Sentences are gathered until there are `target` tokens, then split; those a random text displaces come again."""
    sentences = block.sentences
    at, stop = block.documents[document : document + 2]
    while at < stop:
        end = min(bisect_left(sentences, sentences[at] + target, at + 1, stop + 1), stop)
        split = at + 1
        if end - at > 1:
            split += int(draw() * (end - at - 1))
            if draw() >= 0.5:
                found.extend((sentences[at], sentences[split], sentences[split], sentences[end], 0))
                at = end
                continue
        wanted = target - (sentences[split] - sentences[at])
        found.extend((sentences[at], sentences[split], *_random_text(block, document, wanted, draw), 1))
        at = split


def _random_text(block: Block, document: int, wanted: int, draw: Callable[[], float]) -> tuple[int, int]:
    """From a sentence of another document on, until there are `wanted` tokens; one sentence at least."""
    other = int(draw() * max(block.num_documents - 1, 1))
    if other >= document and block.num_documents > 1:
        other += 1
    begin, stop = block.documents[other : other + 2]
    begin += int(draw() * (stop - begin))
    end = bisect_left(block.sentences, block.sentences[begin] + max(wanted, 1), begin + 1, stop + 1)
    return block.sentences[begin], block.sentences[min(end, stop)]


def _uniform(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(_DRAWS).tolist()


def cut(pairs_N5: NDArray[np.int64], *, room: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Pairs of at most `room` tokens: of the longer text, of equal ones the second, first or last tokens go, by a coin.

    The original drops one at a time. How many go from the front of a text is then binomial, and drawn at once.
    """
    a_start, a_stop, b_start, b_stop, is_random = pairs_N5.T
    a_size, b_size, half = a_stop - a_start, b_stop - b_start, room // 2
    a_kept = np.where(b_size <= half, np.minimum(a_size, room - b_size), np.minimum(a_size, room - half))
    b_kept = np.minimum(b_size, room - a_kept)
    a_start = a_start + rng.binomial(a_size - a_kept, 0.5)
    b_start = b_start + rng.binomial(b_size - b_kept, 0.5)
    return np.stack([a_start, a_start + a_kept, b_start, b_start + b_kept, is_random], axis=1)
