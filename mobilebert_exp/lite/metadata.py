"""What an app must know of a file for devices, inside that file: TFLite's standard metadata and a few files.

The metadata are a flatbuffer of their own (`ModelMetadata`, identifier M001), which the model holds as the buffer
`TFLITE_METADATA`; the files it speaks of lie as a zip at the model's end. Both are described at
https://ai.google.dev/edge/litert/models/metadata, the fields in `metadata_schema.fbs` of tensorflow/tflite-support.
What that schema has no field for stands in a third file, `mobilebert_exp.json`. Equal cards give equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilebert_exp.errors import ExportError

if TYPE_CHECKING:
    from flatbuffers import Builder

BUFFER = "TFLITE_METADATA"
VOCABULARY, LABELS, RECORD = "vocab.txt", "labels.txt", "mobilebert_exp.json"
IDENTIFIER = b"M001"
MIN_PARSER_VERSION = "1.1.0"  # the first that knows BertTokenizerOptions
VERSION = 1  # of RECORD
LARGEST = {VOCABULARY: 64 << 20, LABELS: 1 << 20, RECORD: 1 << 20}  # bytes
AXIS_LABELS, VOCABULARY_FILE = 2, 5  # AssociatedFileType
FEATURE, BERT_TOKENIZER = 1, 4  # their numbers in the unions ContentProperties and ProcessUnitOptions
_STAMP = (1980, 1, 1, 0, 0, 0)  # a zip knows no earlier time

# Names as TensorFlow Lite's Task Library looks for them; the signature's own stand in the descriptions.
INPUTS = (
    ("ids", "input_ids: word pieces of the text, [CLS] first and [SEP] after each part, filled up with [PAD]"),
    ("mask", "input_mask: 1 for a word piece, 0 for what the input is filled up with"),
    ("segment_ids", "segment_ids: 0 for the first text and its separators, 1 for the second, 0 beyond"),
)
OUTPUTS = {
    "span": (
        ("start_logits", "start_logits: one score for each word piece, of being the first of the answer"),
        ("end_logits", "end_logits: one score for each word piece, of being the last of the answer"),
    ),
    "classes": (("probability", "probabilities: one for each label, in the order of labels.txt"),),
    "score": (("score", "scores: one number"),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What is known of an exported model beside its weights.

    Attributes:
      task: the task's name.
      head: `span`, `classes` or `score`; a key of `OUTPUTS`.
      labels: of the classes, in the order of the output; empty where there are none.
      vocabulary: the vocabulary file, as the model was trained with it.
      lower_case: whether a text is lower-cased, and its accents are stripped, before it is split.
      length: tokens of an input; where it is dynamic, the most.
      dynamic_length: whether an input may be shorter.
      preprocessing: what else makes features of texts (`doc_stride` and the like); JSON-serialisable.
      source: where the weights come from: run, checkpoint, sha256.
      format: the `ExportFormat`'s name.
    """

    task: str
    head: str
    labels: tuple[str, ...]
    vocabulary: bytes
    lower_case: bool
    length: int
    dynamic_length: bool
    preprocessing: Mapping[str, object]
    source: Mapping[str, str]
    format: str

    @property
    def vocabulary_sha256(self) -> str:
        return hashlib.sha256(self.vocabulary).hexdigest()


def described(card: Card) -> bytes:
    """The standard metadata, for the model's buffer `BUFFER`."""
    from flatbuffers import Builder

    builder = Builder(2048)
    tensors = [_tensor(builder, name, text, units=name == "ids") for name, text in INPUTS]
    labels = bool(card.labels)
    outputs = [_tensor(builder, name, text, labels=labels) for name, text in OUTPUTS[card.head]]
    units = _vector(builder, [_tokenizer(builder)])
    text = builder.CreateString(
        f"{card.format}, {card.length} tokens, vocabulary {card.vocabulary_sha256}; see {RECORD}"
    )
    name = builder.CreateString(f"MobileBERT {card.task}")
    graph = _table(builder, {0: name, 2: _vector(builder, tensors), 3: _vector(builder, outputs), 5: units})
    version = builder.CreateString(str(VERSION))
    parser = builder.CreateString(MIN_PARSER_VERSION)
    files = _vector(builder, [_file(builder, RECORD, "What the fields of this schema have no place for", kind=0)])
    fields = {0: name, 1: text, 2: version, 3: _vector(builder, [graph]), 6: files, 7: parser}
    builder.Finish(_table(builder, fields), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _tensor(builder: Builder, name: str, text: str, *, units: bool = False, labels: bool = False) -> int:
    fields = {0: builder.CreateString(name), 1: builder.CreateString(text)}
    feature = _table(builder, {})
    fields[3] = _table(builder, {1: feature}, bytes_={0: FEATURE})
    if units:
        fields[4] = _vector(builder, [_tokenizer(builder)])
    if labels:
        fields[6] = _vector(builder, [_file(builder, LABELS, "The labels, one a line", kind=AXIS_LABELS)])
    return _table(builder, fields)


def _tokenizer(builder: Builder) -> int:
    """A process unit: WordPiece with `vocab.txt`."""
    file = _file(builder, VOCABULARY, "WordPiece vocabulary, one piece a line", kind=VOCABULARY_FILE)
    options = _table(builder, {0: _vector(builder, [file])})
    return _table(builder, {1: options}, bytes_={0: BERT_TOKENIZER})


def _file(builder: Builder, name: str, text: str, *, kind: int) -> int:
    return _table(builder, {0: builder.CreateString(name), 1: builder.CreateString(text)}, bytes_={2: kind})


def _table(builder: Builder, offsets: Mapping[int, int], *, bytes_: Mapping[int, int] | None = None) -> int:
    """A table of the schema by its fields' numbers: what lies elsewhere, and enumerations of a byte."""
    small = bytes_ or {}
    builder.StartObject(max([*offsets, *small], default=-1) + 1)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in small.items():
        builder.PrependUint8Slot(slot, value, 0)
    return int(builder.EndObject())


def _vector(builder: Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def files(card: Card) -> dict[str, bytes]:
    """The files of a card by name, for `with_files`."""
    found = {VOCABULARY: card.vocabulary}
    if card.labels:
        found[LABELS] = "".join(f"{label}\n" for label in card.labels).encode()
    found[RECORD] = (json.dumps(_record(card), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
    return found


def _record(card: Card) -> dict[str, object]:
    """A card without what has a file of its own."""
    names = {field.name for field in dataclasses.fields(card)} - {"vocabulary", "labels"}
    fields = {name: getattr(card, name) for name in sorted(names)}
    return {**fields, "vocabulary_sha256": card.vocabulary_sha256, "version": VERSION}


def with_files(model: bytes, files: Mapping[str, bytes]) -> bytes:
    """The model with the files at its end; readers of flatbuffers and of zips each find their part."""
    whole = io.BytesIO(model)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, date_time=_STAMP)
            entry.create_system = 3  # else the system's own number
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return whole.getvalue()


def read(path: Path) -> Card:
    """The card of a file, from that file alone.

    Raises:
      ExportError: it is not there, torn, or was not exported here.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = {name: _content(archive, name) for name in LARGEST if name in archive.namelist()}
        return _card(found)
    except (zipfile.BadZipFile, EOFError):
        raise ExportError(
            f"{path} has no files at its end: it is truncated, or not from mode=export; export it again"
        ) from None
    except OSError as problem:
        raise ExportError(f"{path} cannot be read ({problem.strerror}); name an exported .tflite") from None
    except (ValueError, KeyError, TypeError, NotImplementedError, RuntimeError) as problem:
        reason = f"lacks {problem}" if isinstance(problem, KeyError) else str(problem)
        raise ExportError(
            f"the files at the end of {path} are not as mode=export writes them ({reason}); export it again"
        ) from None


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of the zip; never more than its kind may have, whatever the zip says of its size."""
    entries = [entry for entry in archive.infolist() if entry.filename == name]
    if len(entries) > 1 or entries[0].file_size > LARGEST[name]:
        raise ValueError(f"{name} is there twice" if len(entries) > 1 else f"{name} is too large")
    with archive.open(entries[0]) as file:
        content = file.read(LARGEST[name] + 1)
    if len(content) > LARGEST[name]:
        raise ValueError(f"{name} is too large")
    return content


def _card(found: Mapping[str, bytes]) -> Card:
    record: Any = json.loads(found[RECORD])
    if not isinstance(record, dict) or record.pop("version") != VERSION:
        raise ValueError(f"{RECORD} is of another version")
    digest = record.pop("vocabulary_sha256")
    kinds = {"task": str, "head": str, "lower_case": bool, "length": int, "dynamic_length": bool, "format": str}
    for name, kind in {**kinds, "preprocessing": dict, "source": dict}.items():
        if type(record[name]) is not kind:
            raise ValueError(f"{name} in {RECORD} is no {kind.__name__}")
    if record["head"] not in OUTPUTS:
        raise ValueError(f"head in {RECORD} is not one of {', '.join(OUTPUTS)}")
    labels = tuple(found[LABELS].decode().removesuffix("\n").split("\n")) if LABELS in found else ()
    card = Card(vocabulary=found[VOCABULARY], labels=labels, **record)
    if card.vocabulary_sha256 != digest:
        raise ValueError(f"{VOCABULARY} is not the one that {RECORD} was written for")
    return card
