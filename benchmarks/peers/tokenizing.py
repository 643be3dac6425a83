"""Token ids of paragraphs by one tokenizer, ours or another, and of every character between two letters."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

Encode = Callable[[Sequence[str]], list[list[int]]]
CATEGORIES = ("Cn", "Co", "Cs")  # unassigned, private, half a character


def ours(vocabulary: str) -> Encode:
    from mobilebert_exp.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(vocabulary, lower_case=True)
    return lambda texts: [tokenizer.encode(text) for text in texts]


def original(vocabulary: str) -> Encode:
    from official.nlp.tools import tokenization

    tokenizer = tokenization.FullTokenizer(vocabulary, do_lower_case=True)
    return lambda texts: [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) for text in texts]


def rust(vocabulary: str) -> Encode:
    from tokenizers.implementations import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=True)
    return lambda texts: [found.ids for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def tensorflow_text(vocabulary: str) -> Encode:
    import tensorflow_text

    pieces = Path(vocabulary).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    tokenizer = tensorflow_text.FastBertTokenizer(pieces, token_out_type=_int64(), lower_case_nfd_strip_accents=True)
    return lambda texts: tokenizer.tokenize(list(texts)).to_list()


def _int64() -> object:
    import tensorflow as tf

    return tf.int64


BY_NAME = {"ours": ours, "original": original, "rust": rust, "tensorflow_text": tensorflow_text}


def main() -> None:
    job = json.loads(sys.argv[1])
    texts = json.loads(Path(job["file"]).read_text(encoding="utf-8"))
    encode = BY_NAME[job["name"]](job["vocabulary"])
    encode(["a first text"])  # some build their tables with it
    started = time.perf_counter()
    found = encode(texts)
    seconds = time.perf_counter() - started
    answer = {"seconds": seconds, "digest": hashlib.sha256(json.dumps(found).encode()).hexdigest()}
    if job["characters"]:
        codes = [code for code in range(0x21, 0x30000) if unicodedata.category(chr(code)) not in CATEGORIES]
        answer["characters"] = encode([f"a{chr(code)}b" for code in codes])
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
