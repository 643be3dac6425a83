"""`python -m mobilebert_exp create_pretraining_data`: the original's flags, its files, and one line for a mistake."""

from __future__ import annotations

import shlex
from pathlib import Path

import documents
import pytest
from command_line import Ended, here

from mobilebert_exp.data import cache, example_reading
from mobilebert_exp.storage.bucket import Bucket
from mobilebert_exp.storage.place import Place

VERB = "create_pretraining_data"
README = """--input_file=./sample_text.txt --output_file=/tmp/tf_examples.tfrecord --vocab_file=$BERT_BASE_DIR/vocab.txt
--do_lower_case=True --max_seq_length=128 --max_predictions_per_seq=20 --masked_lm_prob=0.15 --random_seed=12345
--dupe_factor=5"""


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """What every command here needs; two texts."""
    for seed in (1, 2):
        documents.write(tmp_path / f"text{seed}.txt", 20, seed=seed)
    return [
        f"input_file={tmp_path}/text*.txt",
        f"vocab_file={documents.vocabulary(tmp_path)}",
        f"cache_dir={tmp_path}/c",
    ]


def _figures(ended: Ended) -> dict[str, str]:
    assert (ended.code, ended.err) == (0, "")
    return dict(line.split(maxsplit=1) for line in ended.out.replace("random next", "random").splitlines())


def test_a_folder_of_shards(flags: list[str], tmp_path: Path) -> None:
    figures = _figures(here(VERB, *flags, f"output_dir={tmp_path}/out", "dupe_factor=3"))
    files = sorted((tmp_path / "out").glob("*.tfrecord"))
    assert [file.name[:8] for file in files] == ["pass-00-", "pass-01-", "pass-02-"]
    assert figures["records"] == f"{sum(map(example_reading.count, files)):,}"
    assert figures["documents"] == "40"
    assert (tmp_path / "out" / cache.MANIFEST).is_file()
    again = here(VERB, *flags, f"output_dir={tmp_path}/out", "dupe_factor=3")
    assert _figures(again) | {"seconds": ""} == figures | {"seconds": ""}


def test_the_files_of_the_original_command(flags: list[str], tmp_path: Path) -> None:
    """As many files as are named, with all records; the same ones as a folder of shards holds, in its order."""
    names = [f"{tmp_path}/{name}.tfrecord" for name in "abcde"]
    figures = _figures(
        here(VERB, *flags, f"output_file={','.join(names)}", "--dupe_factor=7", "--do_whole_word_mask=True")
    )
    counts = [example_reading.count(name) for name in names]
    assert min(counts) > 0
    assert figures["records"] == f"{sum(counts):,}"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing is left beside them"
    here(VERB, *flags, f"output_dir={tmp_path}/out", "dupe_factor=7", "do_whole_word_mask=true")
    whole = b"".join(file.read_bytes() for file in sorted((tmp_path / "out").glob("*.tfrecord")))
    assert b"".join(Path(name).read_bytes() for name in names) == whole


class Killed(BaseException):
    """What nothing catches."""


def test_killed_while_it_tidies_up(flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are there, what they were joined of is half gone: the same command makes the same files again."""

    def dies(place: Path, *, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            (place / cache.MANIFEST).unlink()
            raise Killed

    command = (VERB, *flags, f"output_file={tmp_path}/a.tfrecord", "dupe_factor=2")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("mobilebert_exp.pretraining_data.shutil.rmtree", dies)
        here(*command)
    before = (tmp_path / "a.tfrecord").read_bytes()
    _figures(here(*command))
    assert (tmp_path / "a.tfrecord").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("cloud")
def test_texts_from_a_bucket_and_shards_to_it(flags: list[str], tmp_path: Path, place: Place) -> None:
    bucket = Bucket(place.bucket)
    for file in tmp_path.glob("text*.txt"):
        bucket.write((place / f"in/{file.name}").name, file.read_bytes(), generation=0)
    here(VERB, *flags, f"output_dir={tmp_path}/out")
    figures = _figures(here(VERB, *flags[1:], f"input_file={place}/in/*.txt", f"output_dir={place}/data"))
    assert figures["written"] == f"to     {place}/data"
    local = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*.*")
    }
    prefix = f"{place.name}/data/"
    there = {name.removeprefix(prefix): bucket.read(name) for name in bucket.list(prefix)}
    assert there == local


MISTAKES = {
    "dupe_facter=3": "dupe_facter is no flag here; did you mean dupe_factor?",
    "nonsense=3": "nonsense is no flag here; leave it out",
    "dupe_factor": "dupe_factor has no value; write dupe_factor=…",
    "dupe_factor=many": "dupe_factor=many is not a whole number; give one",
    "dupe_factor=0": "dupe_factor=0 is below 1; raise it",
    "masked_lm_prob=x": "masked_lm_prob=x is not a number; give one",
    "do_lower_case=yes": "do_lower_case=yes is not true or false; give one",
    "bad_bytes=keep": "bad_bytes=keep is not one of refuse, drop; give one",
    "workers=0": "workers=0 is not a number of processes; give one",
    "max_seq_length=4": "max_seq_length=4 is below 5; raise it",
    "output_file=x": "output_dir names a folder for shards, output_file the files themselves; give one of them",
    "input_file=TMP/nothing*": "input_file=TMP/nothing* means no file; name files that are there",
    "input_file=TMP/bad.txt": "1 file is not UTF-8 text: TMP/bad.txt (line 1, byte 0: not UTF-8); leave out what is no "
    "text, convert the rest (iconv -f ISO-8859-1 -t UTF-8), or set bad_bytes=drop, as the original does",
    "input_file=TMP/empty.txt": "the texts hold no sentence; name files with one sentence a line",
    "vocab_file=TMP/none": "vocab_file=TMP/none does not exist; name a file that does",
    "do_lower_case=false": "do_lower_case=false does not fit vocabulary TMP/vocab.txt: none of its pieces has a "
    "capital letter, so every word with one would be unknown; set do_lower_case=true",
    "cache_dir=gs://b/x": "cache_dir=gs://b/x is no folder of this machine; name one, and set output_dir=gs://b/x",
}  # fmt: skip


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(typed: str, flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    (tmp_path / "empty.txt").touch()
    before = sorted(tmp_path.iterdir())
    ended = here(VERB, *flags, f"output_dir={tmp_path}/out", typed.replace("TMP", str(tmp_path)))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"error: {MISTAKES[typed]}\n".replace("TMP", str(tmp_path))
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_missing_is_named(flags: list[str], tmp_path: Path) -> None:
    for left_out in ("input_file", "vocab_file"):
        rest = [flag for flag in flags if not flag.startswith(left_out)]
        assert here(VERB, *rest, "output_dir=x").err == f"error: {left_out} is missing; write {left_out}=FILE\n"
    assert here(VERB, *flags).err == (
        "error: output_dir names a folder for shards, output_file the files themselves; give one of them\n"
    )
    (tmp_path / "records").write_bytes(b"")
    here(VERB, *flags, f"output_file={tmp_path}/records")
    again = here(VERB, *flags[1:], f"input_file={tmp_path}/records", "output_dir=x")
    assert again.err == f"error: input_file: {tmp_path}/records holds records already; name texts\n"


def test_help_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    ended = here(VERB, "--help")
    assert ended.code == 0
    assert "input_file=FILES" in ended.out
    assert "masked_lm_prob" in ended.out
    assert here(VERB).code == 2


def test_too_few_predictions_are_told(flags: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert here(VERB, *flags, f"output_dir={tmp_path}/out", "max_seq_length=512").code == 0
    assert "max_predictions_per_seq=20 masks 3.9% of 512 tokens" in caplog.text


def test_bytes_that_are_not_utf8_can_be_dropped(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "text3.txt").write_bytes(b"bada.\nbafa\xff.\n")
    ended = here(VERB, *flags, f"output_dir={tmp_path}/out", "bad_bytes=drop")
    assert ended.code == 0
    assert "documents      41" in ended.out


def test_an_original_command_does_the_same_here(tmp_path: Path) -> None:
    """Google's README, on a text and a vocabulary that are there; what is printed runs."""
    documents.write(tmp_path / "sample_text.txt", 10)
    documents.vocabulary(tmp_path)
    ended = here(
        "translate", "--", "python", "create_pretraining_data.py", f"--input_file={tmp_path}/sample_text.txt",
        f"--output_file={tmp_path}/tf_examples.tfrecord", f"--vocab_file={tmp_path}/vocab.txt", "--do_lower_case=True",
        "--max_seq_length=128", "--max_predictions_per_seq=20", "--masked_lm_prob=0.15", "--random_seed=12345",
        "--dupe_factor=5",
    )  # fmt: skip
    assert ended.code == 0
    assert ended.out == (
        f"python -m mobilebert_exp create_pretraining_data input_file={tmp_path}/sample_text.txt "
        f"output_file={tmp_path}/tf_examples.tfrecord vocab_file={tmp_path}/vocab.txt do_lower_case=true "
        "max_seq_length=128 max_predictions_per_seq=20 random_seed=12345 dupe_factor=5 masked_lm_prob=0.15\n"
    )
    assert "bad_bytes=drop" in ended.err
    ran = here(*shlex.split(ended.out)[3:])
    assert _figures(ran)["records"] == f"{example_reading.count(tmp_path / 'tf_examples.tfrecord'):,}"


def test_the_readmes_command_keeps_its_variables() -> None:
    flags = " \\\n  ".join(README.split())
    ended = here("translate", "--", f"python create_pretraining_data.py \\\n  {flags}")
    assert ended.out == (
        "python -m mobilebert_exp create_pretraining_data input_file=./sample_text.txt "
        'output_file=/tmp/tf_examples.tfrecord "vocab_file=${BERT_BASE_DIR}/vocab.txt" do_lower_case=true '
        "max_seq_length=128 max_predictions_per_seq=20 random_seed=12345 dupe_factor=5 masked_lm_prob=0.15\n"
    )


def test_a_bucket_in_an_original_command_becomes_a_folder_there() -> None:
    ended = here(
        "translate", "--", "create_pretraining_data.py --input_file=a*.txt,b.txt --vocab_file=v --output_file=gs://b/x"
    )
    assert ended.out == (
        "python -m mobilebert_exp create_pretraining_data 'input_file=a*.txt,b.txt' vocab_file=v output_dir=gs://b/x\n"
    )
    assert ended.err.splitlines()[0] == "note: gs://b/x becomes a folder of shards; gs://b/x/*.tfrecord names them"
    for flags, message in (
        (
            "--input_file=a --vocab_file=v",
            "--output_file is missing, without which create_pretraining_data.py does not start",
        ),
        (
            "--input_file=a --vocab_file=v --output_file=gs://b/x,gs://b/y",
            "--output_file: in a bucket there is one folder",
        ),
    ):
        assert message in here("translate", "--", f"create_pretraining_data.py {flags}").err
