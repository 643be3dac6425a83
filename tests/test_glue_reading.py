"""GLUE's files: every layout as it is published, and every way in which one can be broken, named by file and line."""

from __future__ import annotations

import csv
import gzip
import logging
import random
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilebert_exp.data import glue, tables
from mobilebert_exp.data.glue import DESCRIPTIONS, Dataset, Part
from mobilebert_exp.data.pairs import Example
from mobilebert_exp.errors import DataError

PARSES = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
MNLI = f"index\tpromptID\tpairID\tgenre\t{PARSES}\tsentence1\tsentence2"
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
FULL = "Lexical Semantics\tPredicate-Argument Structure\tLogic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel"
# data set, split, header, a row, and what it says: id, texts, label
LAYOUTS = [
    ("cola", "train", "", 'gj04\t0\t*\tHe said "no.', ("0", 'He said "no.', None, 0)),
    ("cola", "test", "index\tsentence", "7\tHe left.", ("7", "He left.", None, None)),
    ("sst2", "train", "sentence\tlabel", "a charm \t1", ("0", "a charm ", None, 1)),
    ("sst2", "test", "index\tsentence", "3\ta charm", ("3", "a charm", None, None)),
    ("mrpc", "train", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t70\t71\t"A\tB"', ("0", '"A', 'B"', 1)),
    ("mrpc", "test", "index\t#1 ID\t#2 ID\t#1 String\t#2 String", "5\t70\t71\tA\tB", ("5", "A", "B", None)),
    ("qqp", "train", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "9\t1\t2\tA?\tB?\t0", ("0", "A?", "B?", 0)),
    ("qqp", "test", "id\tquestion1\tquestion2", "4\tA?\tB?", ("4", "A?", "B?", None)),
    ("stsb", "train", f"{STSB}\tscore", "8\tg\tf\t2012\t1\tn\tn\tA\tB\t3.800", ("8", "A", "B", 3.8)),
    ("stsb", "test", STSB, "8\tg\tf\t2012\t1\tn\tn\tA\tB", ("8", "A", "B", None)),
    ("mnli", "train", f"{MNLI}\tlabel1\tgold_label", "2\t1\t1n\tg\t(\t(\t(\t(\tA\tB\tneutral\tneutral",
     ("2", "A", "B", 2)),
    ("mnli", "dev", f"{MNLI}\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
     "2\t1\t1n\tg\t(\t(\t(\t(\tA\tB\tneutral\tneutral\tneutral\tneutral\tneutral\tcontradiction", ("2", "A", "B", 0)),
    ("mnli", "test", MNLI, "2\t1\t1n\tg\t(\t(\t(\t(\tA\tB", ("2", "A", "B", None)),
    ("qnli", "dev", "index\tquestion\tsentence\tlabel", "6\tA?\tB.\tnot_entailment", ("6", "A?", "B.", 1)),
    ("qnli", "test", "index\tquestion\tsentence", "6\tA?\tB.", ("6", "A?", "B.", None)),
    ("rte", "train", "index\tsentence1\tsentence2\tlabel", "6\tA.\tB.\tentailment", ("6", "A.", "B.", 0)),
    ("rte", "test", "index\tsentence1\tsentence2", "6\tA.\tB.", ("6", "A.", "B.", None)),
    ("wnli", "dev", "index\tsentence1\tsentence2\tlabel", "6\tA.\tB.\t1", ("6", "A.", "B.", 1)),
    ("ax", "dev", FULL, "x\t\t\t\tNews\tA.\tB.\tneutral", ("0", "A.", "B.", 2)),
    ("ax", "test", "index\tsentence1\tsentence2", "6\tA.\tB.", ("6", "A.", "B.", None)),
]  # fmt: skip


def part_of(dataset: str, split: str) -> Part:
    about = DESCRIPTIONS[Dataset[dataset]]
    if split == "train":
        assert about.train is not None
        return about.train
    return (about.dev if split == "dev" else about.test)[0]


def read(path: Path, dataset: str, split: str) -> list[Example]:
    return list(glue.read(path, part_of(dataset, split), DESCRIPTIONS[Dataset[dataset]], labelled=split != "test"))


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
@pytest.mark.parametrize(("dataset", "split", "header", "row", "expected"), LAYOUTS)
def test_every_layout(
    dataset: str,
    split: str,
    header: str,
    row: str,
    expected: tuple[str, str, str | None, int | float | None],
    start: bytes,
    end: str,
    tmp_path: Path,
) -> None:
    text = end.join([*([header] if header else []), row, ""])
    (tmp_path / "file.tsv").write_bytes(start + text.encode())
    (found,) = read(tmp_path / "file.tsv", dataset, split)
    assert (found.id, found.text_a, found.text_b, found.label) == expected
    with gzip.open(tmp_path / "file.tsv.gz", "wb") as file:
        file.write(start + text.removesuffix(end).encode())
    assert read(tmp_path / "file.tsv.gz", dataset, split) == [found]


TEXT = st.text(st.characters(blacklist_characters="\t\n\r\ufeff", blacklist_categories=["Cs"]), max_size=30)


@given(st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["entailment", "not_entailment"])), min_size=1, max_size=8))
def test_whatever_stands_between_tabs_is_text(rows: list[tuple[str, str, str]]) -> None:
    lines = ["index\tsentence1\tsentence2\tlabel", *("\t".join((str(n), *row)) for n, row in enumerate(rows))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dev.tsv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
        found = read(path, "rte", "dev")
    assert [(each.text_a, each.text_b) for each in found] == [row[:2] for row in rows]


def test_a_tab_inside_the_only_text_belongs_to_it(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("gj04\t1\t\tone\ttwo\tthree\n", encoding="utf-8")
    assert read(tmp_path / "a.tsv", "cola", "train")[0].text_a == "one\ttwo\tthree"
    (tmp_path / "b.tsv").write_text("sentence\tlabel\none\ttwo\t1\n", encoding="utf-8")
    (found,) = read(tmp_path / "b.tsv", "sst2", "train")
    assert (found.text_a, found.label) == ("one\ttwo", 1)


def test_blank_lines_at_the_end_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("sentence\tlabel\nfine\t1\n\n\n", encoding="utf-8")
    assert len(read(tmp_path / "a.tsv", "sst2", "dev")) == 1


RTE = "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tentailment\n"
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", " is empty; fetch the file again, or name another"),
    "another data set": (
        b"sentence\tlabel\nfine\t1\n",
        ", line 1: the header 'sentence\\tlabel' lacks sentence1, sentence2; name a file of this data set and part",
    ),
    "too few columns": (
        f"{RTE}1\tA\tB\n".encode(),
        ", line 3: 3 columns where 4 belong (index, sentence1, sentence2, label); "
        "fetch the file again, or mend the line",
    ),
    "a tab that may belong to either text": (
        f"{RTE}1\tA\tB\tC\tentailment\n".encode(),
        ", line 3: 5 columns where 4 belong (index, sentence1, sentence2, label); "
        "fetch the file again, or mend the line",
    ),
    "a blank line": (
        f"{RTE}\n\n1\tA\tB\tentailment\n".encode(),
        ", line 3: no columns where 4 belong (index, sentence1, sentence2, label); "
        "fetch the file again, or mend the line",
    ),
    "a label of another set": (
        f"{RTE}1\tA\tB\tneutral\n".encode(),
        ", line 3: label 'neutral' is not one of entailment, not_entailment; correct it",
    ),
    "cut inside the label": (
        f"{RTE}1\tA\tB\tent".encode(),
        ", line 3: label 'ent' is not one of entailment, not_entailment; correct it",
    ),
    "an id twice": (f"{RTE}0\tC\tD\tentailment\n".encode(), ", line 3: index 0 stands twice; give every row its own"),
    "bad UTF-8": (
        RTE.encode() + b"1\tcaf\xe9\tB\tentailment\n",
        ", line 3: byte 6 of it is not UTF-8; fetch the file again, or convert it to UTF-8",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_named(kind: str, tmp_path: Path) -> None:
    content, message = BROKEN[kind]
    (tmp_path / "dev.tsv").write_bytes(content)
    with pytest.raises(DataError) as raised:
        read(tmp_path / "dev.tsv", "rte", "dev")
    assert str(raised.value) == f"{tmp_path}/dev.tsv{message}"


@pytest.mark.parametrize("score", ["", "nan", "5.001", "-0.1", "inf", "good"])
def test_a_score_that_is_none(score: str, tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text(f"{STSB}\tscore\n0\tg\tf\t1\t1\tn\tn\tA\tB\t{score}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"dev.tsv, line 2: score '{score}' is not a number from 0 to 5; correct it"):
        read(tmp_path / "dev.tsv", "stsb", "dev")


def test_a_gzip_file_cut_short_or_damaged(tmp_path: Path) -> None:
    lines = [f"{n}\tA {random.Random(n).random()}\tB\tentailment\n" for n in range(3000)]
    packed = gzip.compress((RTE.splitlines()[0] + "\n" + "".join(lines)).encode())
    path = tmp_path / "dev.tsv.gz"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"dev.tsv.gz is cut short after line \d{3,}; fetch the file again"):
        read(path, "rte", "dev")
    path.write_bytes(packed[: len(packed) // 2] + b"\0" * 400 + packed[len(packed) // 2 + 400 :])
    with pytest.raises(DataError, match=r"dev.tsv.gz(, line \d+:| is no whole gzip file after line \d+; fetch)"):
        read(path, "rte", "dev")
    path.write_bytes(b"index\tsentence1")
    with pytest.raises(DataError, match=r"dev.tsv.gz is no whole gzip file after line 0; fetch the file again"):
        read(path, "rte", "dev")


def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no.tsv does not exist; set data_root, or the task's file, to where it is"):
        read(tmp_path / "no.tsv", "rte", "dev")
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\); name a readable file"):
        read(tmp_path, "rte", "dev")


QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"


def test_qqp_leaves_out_the_few_rows_that_are_published_broken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [f"{n}\t1\t2\tA\tB\t{n % 2}\n" for n in range(300)]
    rows[7], rows[9] = "7\t1\t2\tA question\n", "that goes on\t1\n"
    (tmp_path / "train.tsv").write_text(QQP + "".join(rows), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path / "train.tsv", "qqp", "train")
    assert [each.id for each in found] == [str(n) for n in range(300) if n not in (7, 9)]
    assert "2 rows of another width than the header are left out" in caplog.text


def test_a_blank_line_in_qqp_costs_no_other_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{n}\t1\t2\tA\tB\t{n % 2}\n" for n in range(300)]
    rows[7] = f"\n{rows[7]}"
    (tmp_path / "train.tsv").write_text(f"{QQP}{''.join(rows)}\n", encoding="utf-8")
    found = read(tmp_path / "train.tsv", "qqp", "train")
    assert [each.id for each in found] == [str(n) for n in range(301) if n != 7]  # a row goes by its line
    assert "1 rows of another width" in caplog.text


@pytest.mark.parametrize("fault", ["7\tA question", ""])
def test_of_a_test_part_no_row_is_left_out(fault: str, tmp_path: Path) -> None:
    """Else the submission would be shorter than what it is judged by."""
    rows = [f"{n}\tA\tB" for n in range(300)]
    rows[7] = fault
    (tmp_path / "test.tsv").write_text("\n".join(("id\tquestion1\tquestion2", *rows)), encoding="utf-8")
    with pytest.raises(DataError, match=r"test.tsv, line 9: (2|no) columns where 3 belong \(id, question1"):
        read(tmp_path / "test.tsv", "qqp", "test")


def test_qqp_with_many_broken_rows_is_not_qqp(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(QQP + "0\t1\t2\tA\tB\t0\n1\tA\n2\tB\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"2 of 3 rows have another number of columns than the header; fetch the file"):
        read(tmp_path / "train.tsv", "qqp", "train")


@given(st.lists(st.one_of(st.integers(0, 40).map(str), st.sampled_from(["a", "007", "-1", "", "9" * 20, "²"]))))
def test_an_id_is_known_from_its_second_time_on(names: list[str]) -> None:
    seen = glue._Seen()
    assert [seen.add(name) for name in names] == [name not in names[:index] for index, name in enumerate(names)]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    with path.open("w", encoding="utf-8") as file:
        file.write(RTE.splitlines()[0] + "\n")
        for number in range(20_000):
            file.write(f"{number}\t{'word ' * 20}\t{'other ' * 20}\tentailment\n")
    tracemalloc.start()
    assert sum(1 for _ in glue.read(path, part_of("rte", "train"), DESCRIPTIONS[Dataset.rte], labelled=True)) == 20_000
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 500_000 < path.stat().st_size / 8


REAL = {
    "cola": (8551, 1043, 1063), "sst2": (67349, 872, None), "mrpc": (3668, 408, 1725), "stsb": (5749, 1500, None),
    "rte": (2490, 277, 3000), "wnli": (635, 71, 146), "qnli": (None, 5463, 5463),
}  # fmt: skip


@pytest.mark.parametrize("dataset", REAL)
def test_real_files_equal_what_the_csv_module_reads(dataset: str, shared_data: Path) -> None:
    """As the original opens them: tabs, no quote character."""
    for split, count in zip(("train", "dev", "test"), REAL[dataset], strict=True):
        if count is None:
            continue
        part = part_of(dataset, split)
        path = shared_data / "glue" / part.file
        found = read(path, dataset, split)
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        names = list(part.columns) or rows.pop(0)
        assert len(found) == len(rows) == count
        texts = [name for name in (part.text_a, part.text_b) if name]
        expected = [tuple(row[names.index(name)] for name in texts) for row in rows]
        assert [tuple(text for text in (each.text_a, each.text_b) if text is not None) for each in found] == expected


def test_lines_end_with_a_line_feed_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\u2028two\x85three\x0bfour\rfive\r\nsix", encoding="utf-8", newline="")
    assert list(tables.lines(tmp_path / "a")) == [(1, "one\u2028two\x85three\x0bfour\rfive"), (2, "six")]
