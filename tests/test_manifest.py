"""What commits a checkpoint: whatever happens to one of its files is told, and none is ever half there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import committed
import pytest

from mobilebert_exp import manifest

PARTS = (".index", ".data-00000-of-00001")


def test_a_committed_checkpoint_is_as_it_was_written(tmp_path: Path) -> None:
    prefix = committed.checkpoint(tmp_path, 120)
    found = manifest.check(prefix)
    assert (found.step, found.head, found.model) == (120, "a head", {"name": "toy", "num_layers": 1})
    assert set(found.files) == {f"ckpt-120{part}" for part in PARTS}
    written = json.loads((tmp_path / "ckpt-120.json").read_text())
    assert written["files"]["ckpt-120.index"] == {"size": 9, "crc32c": "cccc0e0f"}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("how", committed.DAMAGE)
def test_damage_is_told_with_the_file_and_what_is_wrong(tmp_path: Path, part: str, how: str) -> None:
    prefix = committed.checkpoint(tmp_path, 7)
    committed.DAMAGE[how](tmp_path / f"ckpt-7{part}")
    with pytest.raises(manifest.DamagedError) as told:
        manifest.check(prefix)
    reason = {
        "flipped": "has another crc32c than when it was written",
        "removed": "is missing",
    }.get(how, "bytes, not ")
    assert reason in told.value.reason
    assert told.value.reason.startswith(f"ckpt-7 is damaged (ckpt-7{part} ")
    assert str(told.value) == f"checkpoint {prefix} is damaged ({told.value.reason[19:-1]}); choose another"


def test_a_flipped_bit_of_a_manifest_is_told(tmp_path: Path) -> None:
    prefix = committed.checkpoint(tmp_path, 3)
    file = manifest.file_of(prefix)
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 5):
        committed.flip(file, bit=bit)
        with pytest.raises(manifest.DamagedError, match=r"^checkpoint .+ is damaged \(ckpt-3\.json "):
            manifest.check(prefix)
        file.write_bytes(whole)
    manifest.check(prefix)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b"7", b'"sha256"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_manifest_commits_nothing(tmp_path: Path, content: bytes) -> None:
    prefix = committed.checkpoint(tmp_path, 3)
    manifest.file_of(prefix).write_bytes(content)
    with pytest.raises(manifest.DamagedError, match=r"\(ckpt-3\.json is no manifest\); choose another$"):
        manifest.check(prefix)


def test_a_manifest_of_another_step_is_told(tmp_path: Path) -> None:
    one, other = committed.checkpoint(tmp_path, 1), committed.checkpoint(tmp_path, 2)
    manifest.file_of(other).replace(manifest.file_of(one))
    with pytest.raises(manifest.DamagedError, match=r"\(ckpt-1\.json is not as it was written\)"):
        manifest.check(one)


def test_a_later_format_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_FORMAT", 2)
    prefix = committed.checkpoint(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(manifest.DamagedError, match="written by a newer version of this package"):
        manifest.check(prefix)


def test_the_newest_is_that_of_the_last_step(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        committed.checkpoint(tmp_path, step)
    (tmp_path / "ckpt-300.index").touch()  # never committed
    (tmp_path / "best.json").write_text("{}")
    assert [prefix.name for prefix in manifest.committed(tmp_path)] == ["ckpt-100", "ckpt-20", "ckpt-9"]
    assert manifest.newest_step(tmp_path) == 100
    committed.flip(tmp_path / "ckpt-100.index")
    assert manifest.newest_step(tmp_path) == 20
    assert manifest.committed(tmp_path / "nowhere") == []


def test_what_interrupted_saves_left_goes_and_nothing_else(tmp_path: Path) -> None:
    kept = committed.checkpoint(tmp_path, 1)
    committed.checkpoint(tmp_path, 2)
    committed.checkpoint(tmp_path / "best", 2)
    (tmp_path / "ckpt-3_temp").mkdir()
    for left in ("ckpt-3_temp/part-00000-of-00001.index", "ckpt-3.index", "ckpt-3.data-00000-of-00001.tempstate12"):
        (tmp_path / left).touch()
    (tmp_path / ".ckpt-3.json.4711").touch()
    for mine in ("best.json", "checkpoint", "notes.txt", "my-ckpt-3.index", "ckpt-3"):
        (tmp_path / mine).touch()
    manifest.remove_others(tmp_path, keep=[kept])
    others = {"best", "best.json", "checkpoint", "notes.txt", "my-ckpt-3.index", "ckpt-3"}
    assert set(os.listdir(tmp_path)) == others | {"ckpt-1.json", *(f"ckpt-1{part}" for part in PARTS)}
    assert len(os.listdir(tmp_path / "best")) == 3


def test_at_no_moment_of_a_removal_is_there_half_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is unlinked last before the process dies."""
    unlink = Path.unlink

    def counted(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        whole, problems = manifest.first_whole(manifest.committed(tmp_path))
        assert whole is not None and problems == [], path

    for step in (1, 2, 3):
        last = committed.checkpoint(tmp_path, step)
    monkeypatch.setattr(Path, "unlink", counted)
    manifest.remove_others(tmp_path, keep=[last])
    assert manifest.committed(tmp_path) == [last]


def test_only_files_of_a_checkpoint_belong_to_it() -> None:
    for name, owner in {
        "checkpoints/ckpt-12.json": "checkpoints/ckpt-12",
        "checkpoints/best/ckpt-3.data-00000-of-00001": "checkpoints/best/ckpt-3",
        "checkpoints/best/best.json": "",
        "checkpoints/checkpoint": "",
        "model.json": "",
    }.items():
        assert manifest.checkpoint_of(name) == owner
