"""The same data by Apache Beam, for corpora beyond one machine: the same functions, and the same files to the byte.

    files ─ pieces ─ Survey ─ joined ─ groups ─ Writer ─ manifest

Texts are read in ranges and shards written whole through Beam's file systems, so both may be anywhere Beam knows of.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mobilebert_exp.data import cache
from mobilebert_exp.data.pretraining import build as building
from mobilebert_exp.data.pretraining import corpus as corpora
from mobilebert_exp.data.pretraining.build import Counts, Made, Text, Writer
from mobilebert_exp.data.pretraining.corpus import Corpus, Group, Piece, Survey, Surveyed
from mobilebert_exp.data.pretraining.settings import Settings
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import ConfigError, DataError, MissingDataError, OutputError, UserError

log = logging.getLogger(__name__)
_WHERE = re.compile(r" \[while running '.*'\]$")  # what Beam adds to a message


@dataclass(frozen=True, slots=True)
class BeamDisk:
    """A folder wherever Beam can write; see `build.Disk`."""

    folder: str

    def read(self, path: str, start: int, stop: int) -> bytes:
        from apache_beam.io.filesystem import BeamIOError, CompressionTypes
        from apache_beam.io.filesystems import FileSystems

        try:
            with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
                file.seek(start)
                content: bytes = file.read(stop - start)
        except (BeamIOError, OSError) as problem:
            raise DataError(f"{path} cannot be read ({problem}); name a readable file") from None
        return content

    def note(self, name: str) -> str | None:
        from apache_beam.io.filesystems import FileSystems

        path = FileSystems.join(self.folder, name)
        return self.read(path, 0, 2**24).decode() if FileSystems.exists(path) else None

    def delete(self, name: str) -> None:
        """A small file among the shards, if it is there."""
        from apache_beam.io.filesystems import FileSystems

        path = FileSystems.join(self.folder, name)
        if FileSystems.exists(path):
            FileSystems.delete([path])

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        from apache_beam.io.filesystem import BeamIOError, CompressionTypes
        from apache_beam.io.filesystems import FileSystems

        path = FileSystems.join(self.folder, name)
        partial = f"{path}.{uuid.uuid4().hex}.tmp"  # a worker that was lost may still be writing the same file
        try:
            with FileSystems.create(partial, compression_type=CompressionTypes.UNCOMPRESSED) as file:
                for part in parts:
                    file.write(part)
            FileSystems.rename([partial], [path])
        except (BeamIOError, OSError) as problem:
            raise OutputError(f"{path} cannot be written ({problem}); choose another output_dir") from None


@dataclass(frozen=True, slots=True)
class Planned:
    """The groups of a surveyed corpus, when the folder is theirs."""

    tokenizer: Tokenizer
    settings: Settings
    disk: BeamDisk

    def __call__(self, corpus: Corpus) -> list[Group]:
        text = Text(corpus=corpus, tokenizer=self.tokenizer, settings=self.settings)
        whole, begun = self.disk.note(cache.MANIFEST), self.disk.note(cache.BEGUN)
        cache.check_free(self.disk.folder, key=text.key(), whole=whole, begun=begun)
        if whole is None and begun is None:
            self.disk.write(cache.BEGUN, [cache.begun(text.key()).encode()])
        for warning in building.warnings(text):
            log.warning("%s", warning)
        return text.groups()


@dataclass(frozen=True, slots=True)
class Joined:
    """Surveyed pieces, which come in any order, to a corpus; `order` says where each piece stands."""

    settings: Settings
    order: dict[Piece, int]

    def __call__(self, surveyed: Sequence[Surveyed]) -> Corpus:
        in_order = sorted(surveyed, key=lambda found: self.order[found.piece])
        return corpora.joined(in_order, bad_bytes=self.settings.bad_bytes)


@dataclass(frozen=True, slots=True)
class Sealed:
    """Writes the manifest when all groups are made; it equals that of a local build."""

    tokenizer: Tokenizer
    settings: Settings
    disk: BeamDisk

    def __call__(self, notes: Sequence[Made], corpus: Corpus) -> Counts:
        counts = sum((note.counts for note in sorted(notes, key=lambda note: note.group)), Counts())
        building.check_counts(counts)
        key = Text(corpus=corpus, tokenizer=self.tokenizer, settings=self.settings).key()
        manifest = cache.manifest(key=key, metadata=asdict(counts), files=building.files_of(notes))
        self.disk.write(cache.MANIFEST, [manifest.encode()])
        self.disk.delete(cache.BEGUN)
        return counts


def sizes(patterns: str) -> dict[str, int]:
    """Bytes of the files that some patterns mean, by path; raises MissingDataError for one that means none."""
    from apache_beam.io.filesystems import FileSystems

    found: dict[str, int] = {}
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        (match,) = FileSystems.match([pattern])
        if not match.metadata_list:
            raise MissingDataError(f"input_file={pattern} means no file; name files that are there")
        found |= {each.path: each.size_in_bytes for each in sorted(match.metadata_list, key=lambda each: each.path)}
    return found


def run(patterns: str, folder: str, tokenizer: Tokenizer, settings: Settings, *, options: Sequence[str]) -> Counts:
    """Makes the shards and the manifest in `folder`; what a pipeline that was ended had finished is kept.

    Args:
      options: Beam's own, e.g. `--runner=DataflowRunner`; by default its direct runner.

    Raises:
      ConfigError: Beam is not installed.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise ConfigError(
            "Apache Beam is not installed; pip install 'mobilebert-exp[beam]', or leave beam out"
        ) from None
    disk = BeamDisk(folder)
    _made_folders(folder)
    try:
        with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
            _wired(pipeline, sizes(patterns), disk, tokenizer, settings)
    except UserError as mistake:
        raise type(mistake)(_WHERE.sub("", str(mistake))) from None
    made = json.loads(disk.note(cache.MANIFEST) or "{}")
    return Counts(**made["metadata"])


def _wired(pipeline: Any, sizes: dict[str, int], disk: BeamDisk, tokenizer: Tokenizer, settings: Settings) -> None:
    import apache_beam as beam

    pieces = list(corpora.pieces(sizes))
    order = {piece: number for number, piece in enumerate(pieces)}
    corpus = (
        pipeline
        | "pieces" >> beam.Create(pieces)
        | "spread pieces" >> beam.Reshuffle()
        | "survey" >> beam.Map(Survey(disk.read))
        | "all pieces" >> beam.combiners.ToList()
        | "corpus" >> beam.Map(Joined(settings, order))
    )
    notes = (
        corpus
        | "groups" >> beam.FlatMap(Planned(tokenizer, settings, disk))
        | "spread groups" >> beam.Reshuffle()
        | "shards" >> beam.Map(Writer(tokenizer=tokenizer, settings=settings, disk=disk))
        | "all groups" >> beam.combiners.ToList()
    )
    sealed = beam.Map(Sealed(tokenizer, settings, disk), corpus=beam.pvalue.AsSingleton(corpus))
    _ = notes | "manifest" >> sealed


def _made_folders(folder: str) -> None:
    from apache_beam.io.filesystems import FileSystems

    for place in (folder, FileSystems.join(folder, building.NOTES)):
        if not FileSystems.exists(place):
            FileSystems.mkdirs(place)
