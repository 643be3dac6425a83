"""The file alone tells an app what it needs: TFLite's standard metadata, and the files at its end."""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lite_files
import pytest

from mobilebert_exp.errors import ExportError
from mobilebert_exp.lite import metadata
from mobilebert_exp.lite.interpreter import LiteModel
from mobilebert_exp.lite.metadata import Card

CARD = Card(
    task="mrpc",
    head="classes",
    labels=("not equivalent", "équivalent"),
    vocabulary="[PAD]\n[UNK]\n[CLS]\n[SEP]\nde\n##à\n".encode(),
    lower_case=True,
    length=128,
    dynamic_length=False,
    preprocessing={"layout": "[CLS] text_a [SEP] text_b [SEP]", "parts": [1, 2]},
    source={"run_id": "0123abcd", "sha256": "ff"},
    format="tflite_int8",
)
FILES = metadata.files(CARD)
SPAN = dataclasses.replace(CARD, task="squad", head="span", labels=())


@dataclasses.dataclass
class Table:
    """A table of a flatbuffer, read by the numbers of its fields: https://flatbuffers.dev/internals/."""

    content: bytes
    at: int

    @classmethod
    def root(cls, content: bytes) -> Table:
        return cls(content, _u32(content, 0))

    def place(self, field: int) -> int:
        """Where a field's value lies; 0 where there is none."""
        vtable = self.at - struct.unpack_from("<i", self.content, self.at)[0]
        known = (_u16(self.content, vtable) - 4) // 2
        offset = _u16(self.content, vtable + 4 + 2 * field) if field < known else 0
        return self.at + offset if offset else 0

    def byte(self, field: int) -> int:
        return self.content[self.place(field)] if self.place(field) else 0

    def table(self, field: int) -> Table:
        return Table(self.content, self.place(field) + _u32(self.content, self.place(field)))

    def text(self, field: int) -> str:
        start = self.table(field).at
        return self.content[start + 4 : start + 4 + _u32(self.content, start)].decode()

    def tables(self, field: int) -> list[Table]:
        if not self.place(field):
            return []
        start = self.table(field).at
        places = [start + 4 + 4 * index for index in range(_u32(self.content, start))]
        return [Table(self.content, place + _u32(self.content, place)) for place in places]


def _u32(content: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", content, at)[0])


def _u16(content: bytes, at: int) -> int:
    return int(struct.unpack_from("<H", content, at)[0])


def _tokenizer_files(unit: Table) -> list[tuple[str, int]]:
    assert unit.byte(0) == 4, "BertTokenizerOptions"
    return [(file.text(0), file.byte(2)) for file in unit.table(1).tables(0)]


def test_the_standard_metadata_name_tensors_tokenizer_and_labels() -> None:
    content = metadata.described(CARD)
    assert content[4:8] == b"M001"
    model = Table.root(content)
    assert "mrpc" in model.text(0) and "tflite_int8, 128 tokens" in model.text(1)
    assert model.text(7) == "1.1.0"
    (graph,) = model.tables(3)
    inputs, (output,) = graph.tables(2), graph.tables(3)
    assert [tensor.text(0) for tensor in inputs] == ["ids", "mask", "segment_ids"]
    assert [tensor.text(1).split(":")[0] for tensor in inputs] == list(lite_files.INPUTS)
    (of_graph,), (of_ids,) = graph.tables(5), inputs[0].tables(4)
    assert _tokenizer_files(of_graph) == _tokenizer_files(of_ids) == [("vocab.txt", 5)]
    assert output.text(1).startswith("probabilities:")
    assert [(file.text(0), file.byte(2)) for file in output.tables(6)] == [("labels.txt", 2)]
    assert [file.text(0) for file in model.tables(6)] == ["mobilebert_exp.json"]


def test_a_span_has_two_outputs_and_no_labels() -> None:
    (graph,) = Table.root(metadata.described(SPAN)).tables(3)
    assert [tensor.text(0) for tensor in graph.tables(3)] == ["start_logits", "end_logits"]
    assert [tensor.tables(6) for tensor in graph.tables(3)] == [[], []]
    assert set(metadata.files(SPAN)) == {"vocab.txt", "mobilebert_exp.json"}


@pytest.mark.parametrize("card", [CARD, SPAN, dataclasses.replace(SPAN, head="score", dynamic_length=True)])
def test_the_file_gives_its_card_back_and_runs_as_before(card: Card, tmp_path: Path) -> None:
    model = lite_files.span()
    whole = metadata.with_files(model, metadata.files(card))
    assert whole.startswith(model)
    path = lite_files.put(tmp_path / "m.tflite", whole)
    assert metadata.read(path) == card
    assert LiteModel(path).length == 12
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.read("vocab.txt") == card.vocabulary


def test_equal_cards_give_equal_bytes() -> None:
    other = dataclasses.replace(
        CARD,
        preprocessing=dict(reversed(list(CARD.preprocessing.items()))),
        source=dict(reversed(list(CARD.source.items()))),
    )
    assert metadata.described(other) == metadata.described(CARD)
    assert metadata.with_files(b"model", metadata.files(other)) == metadata.with_files(b"model", metadata.files(CARD))


def _changed(**changes: Any) -> dict[str, bytes]:
    files = metadata.files(CARD)
    record = {**json.loads(files["mobilebert_exp.json"]), **changes}
    return {**files, "mobilebert_exp.json": json.dumps(record).encode()}


def _zipped(change: Callable[[zipfile.ZipFile], None]) -> bytes:
    content = io.BytesIO(lite_files.span())
    with zipfile.ZipFile(content, "a", zipfile.ZIP_DEFLATED) as archive:
        change(archive)
    return content.getvalue()


def _bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr("mobilebert_exp.json", bytes(2 << 20))


def _twice(archive: zipfile.ZipFile) -> None:
    for name, content in metadata.files(CARD).items():
        archive.writestr(name, content)
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("vocab.txt", b"another")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(lite_files.span(), "no files at its end", id="no zip"),
        pytest.param(metadata.with_files(b"m", metadata.files(CARD))[:-30], "no files at its end", id="truncated"),
        pytest.param(metadata.with_files(b"m", {"vocab.txt": b""}), "lacks 'mobilebert_exp.json'", id="no record"),
        pytest.param(metadata.with_files(b"m", _changed(head="teacher")), "head in .* is not one of", id="head"),
        pytest.param(metadata.with_files(b"m", _changed(length="128")), "length in .* is no int", id="type"),
        pytest.param(metadata.with_files(b"m", _changed(version=2)), "another version", id="version"),
        pytest.param(metadata.with_files(b"m", _changed(more=1)), "not as mode=export writes them", id="more"),
        pytest.param(metadata.with_files(b"m", {**FILES, "vocab.txt": b"x"}), "vocab.txt is not", id="words"),
        pytest.param(metadata.with_files(b"m", {**FILES, "mobilebert_exp.json": b"["}), "as mode", id="json"),
        pytest.param(_zipped(_bomb), "mobilebert_exp.json is too large", id="bomb"),
        pytest.param(_zipped(_twice), "vocab.txt is there twice", id="twice"),
    ],
)
def test_files_that_were_changed_are_told(content: bytes, message: str, tmp_path: Path) -> None:
    path = lite_files.put(tmp_path / "m.tflite", content)
    with pytest.raises(ExportError, match=f"{message}.*; export it again$") as told:
        metadata.read(path)
    assert str(path) in str(told.value) and "\n" not in str(told.value)


def test_only_known_names_are_read(tmp_path: Path) -> None:
    files = {**metadata.files(CARD), "../outside.txt": b"x", "/tmp/absolute": b"y"}
    assert metadata.read(lite_files.put(tmp_path / "m.tflite", metadata.with_files(b"m", files))) == CARD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.tflite"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none.tflite cannot be read \(No such file"):
        metadata.read(tmp_path / "none.tflite")
