"""Small invented GLUE and XNLI files in the published layouts, with a rule that a small model learns in a few steps."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import originals

GOOD, BAD = "new", "old"  # which of them a sentence holds is what it says
OTHERS = [word for word in originals.WORDS if word not in (GOOD, BAD)]


def sentence(rng: random.Random, word: str, *, length: int = 6) -> str:
    words = rng.choices(OTHERS, k=length)
    words[rng.randrange(length)] = word
    return " ".join(words)


def vocabulary(root: Path) -> None:
    (root / "vocab").mkdir(parents=True, exist_ok=True)
    (root / "vocab" / "bert_uncased_vocab.txt").write_text("\n".join(originals.vocabulary()) + "\n", encoding="utf-8")
    cased = [*originals.vocabulary(), *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    (root / "vocab" / "bert_multi_cased_vocab.txt").write_text("\n".join(cased) + "\n", encoding="utf-8")


def table(path: Path, header: str, row: Callable[[int, random.Random], str], *, count: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    lines = [*([header] if header else []), *(row(number, rng) for number in range(count))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def sst2(root: Path, *, train: int = 64, dev: int = 20, test: int = 10) -> None:
    """The word says the label, in all three parts."""

    def row(number: int, rng: random.Random) -> str:
        return f"{sentence(rng, (BAD, GOOD)[number % 2])}\t{number % 2}"

    folder = root / "glue" / "SST-2"
    table(folder / "train.tsv", "sentence\tlabel", row, count=train)
    table(folder / "dev.tsv", "sentence\tlabel", row, count=dev, seed=1)
    table(folder / "test.tsv", "index\tsentence", lambda n, rng: f"{n}\t{row(n, rng)[:-2]}", count=test, seed=2)


def stsb(root: Path, *, train: int = 64, dev: int = 20, test: int = 6) -> None:
    """Both texts of a pair have the same word and score 5, or another and score 0."""
    names = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"

    def pair(number: int, rng: random.Random) -> str:
        texts = sentence(rng, GOOD), sentence(rng, (BAD, GOOD)[number % 2])
        return "\t".join((str(number), "g", "f", "2012", str(number), "none", "none", *texts))

    folder = root / "glue" / "STS-B"
    for name, count, seed in (("train", train, 0), ("dev", dev, 1)):
        table(folder / f"{name}.tsv", f"{names}\tscore", lambda n, rng: f"{pair(n, rng)}\t{5.0 * (n % 2):.3f}",
              count=count, seed=seed)  # fmt: skip
    table(folder / "test.tsv", names, pair, count=test, seed=2)


def rte(root: Path, *, train: int = 32, dev: int = 10, test: int = 5) -> None:
    """The word of the second text says the label."""

    def pair(number: int, rng: random.Random) -> str:
        return f"{number}\t{sentence(rng, GOOD)}\t{sentence(rng, (GOOD, BAD)[number % 2])}"

    def labelled(number: int, rng: random.Random) -> str:
        return f"{pair(number, rng)}\t{('entailment', 'not_entailment')[number % 2]}"

    folder, names = root / "glue" / "RTE", "index\tsentence1\tsentence2"
    for name, count, seed in (("train", train, 0), ("dev", dev, 1)):
        table(folder / f"{name}.tsv", f"{names}\tlabel", labelled, count=count, seed=seed)
    table(folder / "test.tsv", names, pair, count=test, seed=2)


INFERENCE = ("contradiction", "entailment", "neutral")


def mnli(root: Path, *, train: int = 60, dev: tuple[int, int] = (9, 6), test: tuple[int, int] = (5, 4)) -> None:
    """Train, both dev parts and both test parts."""
    names = "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
    names += "sentence2_parse\tsentence1\tsentence2"

    def pair(number: int, rng: random.Random) -> str:
        texts = sentence(rng, GOOD), sentence(rng, (BAD, GOOD, "harp")[number % 3])
        return "\t".join((str(number), "1", "1n", "fiction", "(", "(", "(", "(", *texts))

    def labelled(number: int, rng: random.Random) -> str:
        return f"{pair(number, rng)}\tneutral\t{INFERENCE[number % 3]}"

    folder = root / "glue" / "MNLI"
    table(folder / "train.tsv", f"{names}\tlabel1\tgold_label", labelled, count=train)
    for index, kind in enumerate(("matched", "mismatched")):
        table(folder / f"dev_{kind}.tsv", f"{names}\tlabel1\tgold_label", labelled, count=dev[index], seed=index + 1)
        table(folder / f"test_{kind}.tsv", names, pair, count=test[index], seed=index + 3)


XNLI_COLUMNS = (
    "language\tgold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
    "sentence1\tsentence2\tpromptID\tpairID\tgenre\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\t"
    "sentence1_tokenized\tsentence2_tokenized\tmatch"
)


def xnli(path: Path, languages: dict[str, int], *, labelled: bool = True, seed: int = 0) -> None:
    """So many pairs of each language, one language after another."""
    spoken = [language for language, count in languages.items() for _ in range(count)]

    def row(number: int, rng: random.Random) -> str:
        texts = sentence(rng, GOOD), sentence(rng, (BAD, GOOD, "harp")[number % 3])
        label = INFERENCE[number % 3] if labelled else ""
        return "\t".join((spoken[number], label, "", "", "", "", *texts, *[""] * 11))

    table(path, XNLI_COLUMNS, row, count=len(spoken), seed=seed)


def diagnostic(root: Path, *, count: int, seed: int = 9) -> None:
    """AX with labels, and the same without."""
    names = "Lexical Semantics\tPredicate-Argument Structure\tLogic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel"

    def texts(number: int, rng: random.Random) -> str:
        return f"{sentence(rng, GOOD)}\t{sentence(rng, (BAD, GOOD, 'harp')[number % 3])}"

    folder = root / "glue" / "diagnostic"
    table(folder / "diagnostic-full.tsv", names, lambda n, rng: f"a\t\t\t\tNews\t{texts(n, rng)}\t{INFERENCE[n % 3]}",
          count=count, seed=seed)  # fmt: skip
    table(folder / "diagnostic.tsv", "index\tsentence1\tsentence2", lambda n, rng: f"{n}\t{texts(n, rng)}",
          count=count, seed=seed)  # fmt: skip
