"""Apache Beam makes the same files as the processes of one machine do, byte for byte; here on its direct runner."""

from __future__ import annotations

import hashlib
from pathlib import Path

import documents
import pytest
from command_line import here

from mobilebert_exp.data import cache
from mobilebert_exp.data.pretraining import beam, feature_files, inputs
from mobilebert_exp.data.pretraining import corpus as corpora
from mobilebert_exp.data.pretraining.build import Text, Writer
from mobilebert_exp.data.pretraining.corpus import Group
from mobilebert_exp.data.pretraining.settings import BadBytes, Settings

pytestmark = pytest.mark.interop
TOKENIZER = documents.tokenizer()
SETTINGS = Settings(max_seq_length=64, dupe_factor=2)
OPTIONS = ("--runner=DirectRunner", "--direct_running_mode=in_memory")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which a hundred kilobytes are several pieces and groups."""
    monkeypatch.setattr(corpora, "PIECE_BYTES", 20_000)
    monkeypatch.setattr(corpora, "LEAST_SEGMENT", 1000)
    monkeypatch.setattr(corpora, "MOST_SEGMENT", 5000)
    monkeypatch.setattr(corpora, "LEAST_GROUP", 20_000)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def locally(folder: Path, *files: Path) -> dict[str, str]:
    corpus = inputs.corpus(files, bad_bytes=BadBytes.refuse)
    feature_files.made_in(folder, Text(corpus=corpus, tokenizer=TOKENIZER, settings=SETTINGS))
    return contents(folder)


def test_the_files_are_the_same_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made at once, and made after another pipeline had made some of the groups and failed."""
    files = [documents.write(tmp_path / f"{number}.txt", 60, seed=number) for number in range(2)]
    expected = locally(tmp_path / "local", *files)
    assert len(expected) > 12
    beam.run(f"{tmp_path}/*.txt", str(tmp_path / "beam"), TOKENIZER, SETTINGS, options=OPTIONS)
    assert contents(tmp_path / "beam") == expected
    make = Writer.__call__

    def fails_at_the_second(self: Writer, group: Group) -> object:
        if group.number == 1:
            raise RuntimeError("this machine is gone")
        return make(self, group)

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="this machine is gone"):
        patched.setattr(Writer, "__call__", fails_at_the_second)
        beam.run(f"{tmp_path}/*.txt", str(tmp_path / "torn"), TOKENIZER, SETTINGS, options=OPTIONS)
    assert not (tmp_path / "torn" / cache.MANIFEST).exists()
    beam.run(f"{tmp_path}/*.txt", str(tmp_path / "torn"), TOKENIZER, SETTINGS, options=OPTIONS)
    assert contents(tmp_path / "torn") == expected


def test_the_command(tmp_path: Path) -> None:
    files = [documents.write(tmp_path / f"{number}.txt", 30, seed=number) for number in range(2)]
    flags = [f"vocab_file={documents.vocabulary(tmp_path)}", "max_seq_length=64", "dupe_factor=2"]
    ways = [f"input_file={tmp_path}/0.txt, {tmp_path}/1.txt", f"beam={' '.join(OPTIONS)}", *flags]
    ended = here("create_pretraining_data", *ways, f"output_dir={tmp_path}/beam")
    assert ended.code == 0
    assert "documents      60\n" in ended.out
    assert contents(tmp_path / "beam") == locally(tmp_path / "local", *files)
    other = here("create_pretraining_data", *ways, f"output_dir={tmp_path}/beam", "random_seed=1")
    assert other.err == (
        f"error: {tmp_path}/beam holds data of other texts, another vocabulary or other settings; choose another "
        "folder, or delete what is there\n"
    )
    named = here("create_pretraining_data", *ways, f"output_file={tmp_path}/x.tfrecord")
    assert named.err == "error: beam writes shards into a folder; name it in output_dir, in place of output_file\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none*", "input_file=TMP/none* means no file; name files that are there"),
        ("bad.txt", "1 file is not UTF-8 text: TMP/bad.txt (line 1, byte 0: not UTF-8); leave out what is no text, "
                    "convert the rest (iconv -f ISO-8859-1 -t UTF-8), or set bad_bytes=drop, as the original does"),
        ("empty.txt", "the texts hold no sentence; name files with one sentence a line"),
    ],
)  # fmt: skip
def test_a_mistake_is_the_same_line(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    (tmp_path / "empty.txt").touch()
    ended = here(
        "create_pretraining_data", f"input_file={tmp_path}/{name}", f"vocab_file={documents.vocabulary(tmp_path)}",
        f"beam={' '.join(OPTIONS)}", f"output_dir={tmp_path}/beam",
    )  # fmt: skip
    assert ended.err == f"error: {message}\n".replace("TMP", str(tmp_path))
    assert ended.code == 2
