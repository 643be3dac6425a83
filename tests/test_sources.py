"""Where data come from: folders, addresses, the publishers and their archives."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from archives import packed_tar, packed_zip
from command_line import here
from publisher import Publisher, publishing

from mobilebert_exp.data import mrpc, publishers, sources
from mobilebert_exp.data.publishers import Part
from mobilebert_exp.errors import CheckpointError, DataError, MissingDataError, OutputError, UserError
from mobilebert_exp.storage import archive, web
from mobilebert_exp.storage.web import File

SHA256 = "0" * 64
PARTS = ("train", "dev", "test")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """A publisher of one file, waited for as little as can be."""
    monkeypatch.setattr(web, "BACKOFF_S", 0.01)
    with publishing(file=b"some bytes") as publisher:
        yield publisher


def test_a_folder_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad/x.json").touch()
    file = sources.find("squad/x.json", data_root=str(tmp_path), cache_dir=tmp_path)
    assert file == tmp_path / "squad/x.json" == sources.fetched(str(file), cache_dir=tmp_path)
    assert sources.checkpoint(str(tmp_path), cache_dir=None) == str(tmp_path)
    with pytest.raises(
        DataError, match=r"^a/b is looked for in data_root, which is not set; name a folder, or publishers$"
    ):
        sources.find("a/b", data_root=None, cache_dir=tmp_path)


def test_what_is_not_there_is_told_with_the_setting_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told: list[str] = []
    for root, key in (
        (tmp_path / "no", "task.dev_file"),
        (tmp_path / "file", ""),
        (tmp_path, ""),
        (tmp_path, "task.x"),
    ):
        with pytest.raises(MissingDataError) as fault:
            sources.find("a/b", data_root=str(root), cache_dir=tmp_path, key=key)
        told.append(str(fault.value))
    folder = "name the folder that holds a/b, or publishers, to have it fetched"
    assert told == [
        f"data_root={tmp_path}/no does not exist; {folder}",
        f"data_root={tmp_path}/file is no folder; {folder}",
        f"data_root={tmp_path} has no a/b; put it there",
        f"data_root={tmp_path} has no a/b; put it there, or name a file in task.x",
    ]
    with pytest.raises(MissingDataError, match=rf"^task.x={tmp_path}/no does not exist; name a file that does$"):
        sources.fetched(str(tmp_path / "no"), cache_dir=tmp_path, key="task.x")


def test_an_address_as_data_root(site: Publisher, tmp_path: Path) -> None:
    site.files["/data/squad/x.json"] = b"{}"
    found = sources.find("squad/x.json", data_root=f"{site.url}/data/", cache_dir=tmp_path)
    assert (found.read_bytes(), found.name) == (b"{}", "x.json")


def test_an_archive_of_the_publishers_gives_all_of_our_files(
    site: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = packed_zip(
        tmp_path / "X.zip", {"X/train.tsv": b"train", "X/dev.tsv": b"dev", "__MACOSX/X/._dev.tsv": b"?"}
    ).read_bytes()
    site.files["/X.zip"] = packed
    file = File(address=f"{site.url}/X.zip", size=len(packed), sha256=hashlib.sha256(packed).hexdigest())
    monkeypatch.setattr(
        publishers,
        "FILES",
        {f"glue/X/{part}.tsv": Part(file=file, member=f"X/{part}.tsv") for part in PARTS},
    )
    cache = tmp_path / "cache"
    found = [
        sources.find(f"glue/X/{part}.tsv", data_root="publishers", cache_dir=cache).read_bytes() for part in PARTS[:2]
    ]
    assert found == [b"train", b"dev"]
    assert len(site.seen) == 1
    with pytest.raises(DataError) as told:
        sources.find("glue/X/test.tsv", data_root="publishers", cache_dir=cache)
    assert str(told.value).endswith(
        "X.zip has no X/test.tsv; fetch and unpack it where there is a network, put it at DIR/glue/X/test.tsv "
        "and set data_root=DIR"
    )
    assert not list((cache / "publishers").rglob("*MACOSX*"))


def test_offline_names_the_file_the_address_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "BACKOFF_S", 0.0)
    address = "http://127.0.0.1:9/dataset/train-v1.1.json"  # nobody listens on the discard port
    monkeypatch.setattr(
        publishers, "FILES", {"squad/train-v1.1.json": Part(file=File(address=address, size=3, sha256=SHA256))}
    )
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", encoding="utf-8")
    ended = here(
        "mode=plan", "task=squad_v1", "data_root=publishers", f"task.vocab_file={tmp_path}/vocab.txt",
        f"cache_dir={tmp_path}/cache", f"output_dir={tmp_path}/outputs",
    )  # fmt: skip
    assert ended.err == (
        f"error: train-v1.1.json cannot be fetched from {address} (no connection); fetch it where there is a network, "
        "put it at DIR/squad/train-v1.1.json and set data_root=DIR\n"
    )
    assert ended.code == 2


def test_a_file_that_nobody_publishes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^glue/XYZ/train.tsv is published nowhere that is known here; "):
        sources.find("glue/XYZ/train.tsv", data_root="publishers", cache_dir=tmp_path)
    with pytest.raises(
        DataError, match=r"^glue/MRPC/all.tsv is no file of MRPC's; there are train.tsv, dev.tsv, test.tsv$"
    ):
        sources.find("glue/MRPC/all.tsv", data_root="publishers", cache_dir=tmp_path)


def test_mrpc_is_cut_by_its_list_of_ids(site: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    rows = [f'{n % 2}\t{n}\t{n + 100}\tHe said "no\u2028{n}.\tShe "did.\r\n' for n in range(9)]
    raw = {
        "msr_paraphrase_train.txt": (head + "".join(rows)).encode(),
        "msr_paraphrase_test.txt": (head + "".join(rows[:2])).encode(),
        "mrpc_dev_ids.tsv": b"3\t103\n5\t105\n7\t106\n",  # the last pair is none
    }
    site.files |= {f"/{name}": content for name, content in raw.items()}
    monkeypatch.setattr(publishers, "MRPC_FILES", {name: File(address=f"{site.url}/{name}") for name in raw})
    found = {
        part: sources.find(f"glue/MRPC/{part}.tsv", data_root="publishers", cache_dir=tmp_path).read_bytes().decode()
        for part in PARTS
    }
    plain = [row.replace("\r\n", "\n") for row in rows]
    header = head[1:].replace("\r\n", "\n")
    assert found["dev"] == header + plain[3] + plain[5]
    assert found["train"] == header + "".join(row for n, row in enumerate(plain) if n not in (3, 5))
    assert found["test"] == "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n" + "".join(
        f"{n}{row[1:]}" for n, row in enumerate(plain[:2])
    )
    assert len(site.seen) == 3


def test_a_malformed_corpus_says_where(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("a\tb\tc\td\te\n1\t2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.txt, line 2: 2 columns instead of 5; remove it, and fetch it again$"):
        mrpc.parts(train=tmp_path / "bad.txt", test=tmp_path / "bad.txt", dev_ids=tmp_path / "bad.txt")


def test_the_table_covers_the_layout_of_real_data(shared_data: Path) -> None:
    """Whatever the shared data hold of squad, glue, xnli and vocab can be had of the publishers under the same name."""
    names = {
        path.relative_to(shared_data).as_posix()
        for path in shared_data.rglob("*")
        if path.suffix in (".json", ".tsv", ".txt")
    }
    names = {name for name in names if not name.startswith(("books/", "glue/submission_format/"))}
    mrpc_files = {f"glue/MRPC/{part}.tsv" for part in PARTS}
    assert names - mrpc_files <= publishers.FILES.keys()


def test_the_vocabularies_are_those_that_are_published(shared_data: Path) -> None:
    for name in ("vocab/bert_uncased_vocab.txt", "vocab/bert_multi_cased_vocab.txt"):
        content, file = (shared_data / name).read_bytes(), publishers.FILES[name].file
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)


def test_every_published_file_is_named_soundly() -> None:
    files = [part.file for part in publishers.FILES.values()] + list(publishers.MRPC_FILES.values())
    for file in files:
        assert file.address.startswith("https://")
        assert publishers.known(file.address) == file
        if "diagnostic-full" not in file.address:  # nobody tells its checksum
            assert file.size and file.sha256 and len(bytes.fromhex(file.sha256)) == 32
    assert len({file.sha256 for file in files}) == len({file.address for file in files})
    assert publishers.known("https://example.org/x") == File(address="https://example.org/x")


def _run(top: str) -> dict[str, bytes]:
    return {
        f"{top}model.json": b"{}",
        f"{top}checkpoints/checkpoint": b"",
        f"{top}checkpoints/ckpt-5.index": b"i",
        f"{top}checkpoints/best/ckpt-3.index": b"i",
    }


def test_a_run_in_an_archive(site: Publisher, tmp_path: Path) -> None:
    site.files["/run.tar.gz"] = packed_tar(tmp_path / "run.tar.gz", _run("my/run/")).read_bytes()
    site.files["/original.tar.gz"] = packed_tar(
        tmp_path / "o.tar.gz", {"bert/mobilebert.ckpt.index": b"i", "bert/vocab.txt": b""}
    ).read_bytes()
    site.files["/nothing.tar.gz"] = packed_tar(tmp_path / "n.tar.gz", {"vocab.txt": b""}).read_bytes()
    found = Path(sources.checkpoint(f"{site.url}/run.tar.gz", cache_dir=tmp_path))
    assert (found.name, (found / "model.json").read_bytes()) == ("run", b"{}")
    assert sources.checkpoint(f"{site.url}/original.tar.gz", cache_dir=tmp_path).endswith("bert/mobilebert.ckpt")
    with pytest.raises(CheckpointError, match=rf"^init.checkpoint={site.url}/nothing.tar.gz: no checkpoint there; "):
        sources.checkpoint(f"{site.url}/nothing.tar.gz", cache_dir=tmp_path)
    with pytest.raises(CheckpointError, match=rf"^init.checkpoint={site.url}/file is no archive; give one of "):
        sources.checkpoint(f"{site.url}/file", cache_dir=tmp_path)


def test_a_cache_that_cannot_be_written_is_one_line(site: Publisher, tmp_path: Path) -> None:
    """The lock's folder is there, and the lock cannot be: a folder of its name stands in the way, root or not."""
    part = Part(file=File(address=f"{site.url}/X.zip"), member="X/train.tsv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishers, "FILES", {"glue/X/train.tsv": part})
        (tmp_path / "publishers/glue/X/.train.tsv.lock").mkdir(parents=True)
        with pytest.raises(OutputError, match=rf"^cache_dir {tmp_path}/publishers/glue/X cannot be written \(.+\); "):
            sources.find("glue/X/train.tsv", data_root="publishers", cache_dir=tmp_path)
    assert site.seen == []


def test_every_mistake_is_one_line(site: Publisher, tmp_path: Path) -> None:
    (tmp_path / "evil.zip").write_bytes(b"PK" + os.urandom(100))
    for mistake in (
        lambda: sources.fetched("gs://", cache_dir=tmp_path),
        lambda: sources.fetched("gs://UPPER/x", cache_dir=tmp_path),
        lambda: sources.fetched(f"{site.url}/none", cache_dir=tmp_path),
        lambda: archive.unpack(tmp_path / "evil.zip", tmp_path / "out"),
    ):
        with pytest.raises(UserError) as told:
            mistake()
        assert "\n" not in str(told.value) and "; " in str(told.value)
