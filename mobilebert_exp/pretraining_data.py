"""`python -m mobilebert_exp create_pretraining_data KEY=VALUE …`: texts to records, with the original script's flags.

    input_file=FILES        texts: one sentence a line, a blank line between documents; patterns, commas between
    output_dir=FOLDER       where shards are written, a folder of this machine or gs://…; or else
    output_file=FILES       the names of the files to write, commas between
    vocab_file=FILE         a WordPiece vocabulary

The others, and their defaults, are those of the original; `bad_bytes=drop` takes texts that are not UTF-8, `workers=N`
limits the processes, `cache_dir=FOLDER` keeps what is on its way to a bucket, and `beam='--runner=… …'` hands the work
to Apache Beam, with these options. A command that was killed goes on where it was, when it is given again.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilebert_exp.checks import folder, place
from mobilebert_exp.data import cache as cache_folders
from mobilebert_exp.data import casing, parallel, records, sources
from mobilebert_exp.data.pretraining import feature_files, inputs
from mobilebert_exp.data.pretraining.build import Counts, Text
from mobilebert_exp.data.pretraining.settings import BadBytes, Settings, advice, check
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import ConfigError, OutputError, UserError
from mobilebert_exp.files import write_text
from mobilebert_exp.spelling import nearest
from mobilebert_exp.storage import folders
from mobilebert_exp.storage.place import GS, Place

log = logging.getLogger(__name__)
CACHE = "~/.cache/mobilebert_exp"
_COPIED_BYTES = 2**20
_OUR_WORDS = {"task.lower_case": "do_lower_case", "task.": ""}  # what messages of a task call the flags here


@dataclass(kw_only=True, frozen=True, slots=True)
class Asked:
    """The flags, read. Of the two outputs one is given."""

    input_file: str
    vocab_file: str
    settings: Settings
    output_dir: str = ""
    output_file: str = ""
    do_lower_case: bool = True
    cache_dir: str = CACHE
    workers: int | None = None
    beam: str = ""


def _truth(text: str) -> bool:
    words = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}  # as absl reads them
    return words[text.lower()]


def _some(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


_PLACES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("input_file", "vocab_file", "output_dir", "output_file", "cache_dir", "beam"), str),
    **{"do_lower_case": _truth, "workers": _some},
}
_SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {  # flags, and what they are called in `Settings`
    **{name: (name, int) for name in ("max_seq_length", "max_predictions_per_seq", "random_seed", "dupe_factor")},
    **{name: (name, float) for name in ("masked_lm_prob", "short_seq_prob")},
    **{"do_whole_word_mask": ("whole_word_mask", _truth), "bad_bytes": ("bad_bytes", BadBytes)},
}
_WANTED: dict[Callable[[str], Any], str] = {
    int: "a whole number", float: "a number", _truth: "true or false", _some: "a number of processes",
    BadBytes: "one of refuse, drop",
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Makes the records, prints what they are, and returns 0.

    Raises:
      UserError: a flag, a text, the vocabulary or the place to write to is not what it should be.
    """
    if not arguments or {"-h", "--help", "--helpfull"} & set(arguments):
        flags = ", ".join((*_PLACES, *_SETTINGS))
        print(f"{__doc__}\nFlags: {flags}", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    started = time.monotonic()
    try:
        asked = _asked(arguments)
        if told := advice(asked.settings):
            log.warning("%s", told)
        with parallel.shared_among(asked.workers):
            told = _by_beam(asked) if asked.beam else _made(asked)
    except UserError as mistake:
        text = str(mistake)
        for theirs, ours in _OUR_WORDS.items():
            text = text.replace(theirs, ours)
        raise type(mistake)(text) from None
    print(f"{told}\nseconds        {time.monotonic() - started:.1f}")
    return 0


def _asked(arguments: Sequence[str]) -> Asked:
    given: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for argument in arguments:
        name, has_value, value = argument.removeprefix("--").partition("=")
        if name not in _PLACES and name not in _SETTINGS:
            near = nearest(name, [*_PLACES, *_SETTINGS])
            raise ConfigError(f"{name} is no flag here; {f'did you mean {near}?' if near else 'leave it out'}")
        if not has_value or not value.strip():
            raise ConfigError(f"{name} has no value; write {name}=…")
        target, kind = _SETTINGS[name] if name in _SETTINGS else (name, _PLACES[name])
        try:
            (settings if name in _SETTINGS else given)[target] = kind(value)
        except (ValueError, KeyError):
            raise ConfigError(f"{name}={value} is not {_WANTED[kind]}; give one") from None
    for name in ("input_file", "vocab_file"):
        if name not in given:
            raise ConfigError(f"{name} is missing; write {name}=FILE")
    if ("output_dir" in given) == ("output_file" in given):
        raise ConfigError("output_dir names a folder for shards, output_file the files themselves; give one of them")
    check(Settings(**settings))
    return Asked(**given, settings=Settings(**settings))


def _by_beam(asked: Asked) -> str:
    """The work of `_made` as a pipeline, to a folder that Beam can write."""
    from mobilebert_exp.data.pretraining import beam

    if not asked.output_dir:
        raise ConfigError("beam writes shards into a folder; name it in output_dir, in place of output_file")
    counts = beam.run(
        asked.input_file, asked.output_dir, _tokenizer(asked), asked.settings, options=shlex.split(asked.beam)
    )
    return _told(counts, [asked.output_dir])


def _made(asked: Asked) -> str:
    cache = _cache(asked)
    tokenizer = _tokenizer(asked)
    texts = inputs.files(asked.input_file, cache_dir=cache, key="input_file")
    if feature_files.are_records(texts[0]):
        raise ConfigError(f"input_file: {texts[0]} holds records already; name texts")
    outputs = [name.strip() for name in asked.output_file.split(",") if name.strip()]
    text = Text(
        corpus=inputs.corpus(texts, bad_bytes=asked.settings.bad_bytes),
        tokenizer=tokenizer,
        settings=asked.settings,
        least_groups=max(1, -(-len(outputs) // asked.settings.dupe_factor)),
    )
    if outputs:
        files = [Path(folder("output_file", name, instead="output_dir")) for name in outputs]
        return _told(_in_files(files, text), [str(file) for file in files])
    if asked.output_dir.startswith(GS):
        place_in_bucket = Place.parse(asked.output_dir, key="output_dir")
        return _told(_in_bucket(place_in_bucket, text, cache=cache), [str(place_in_bucket)])
    there = Path(place("output_dir", asked.output_dir))
    return _told(feature_files.made_in(there, text).counts, [str(there)])


def _cache(asked: Asked) -> Path:
    return Path(folder("cache_dir", asked.cache_dir, instead="output_dir"))


def _tokenizer(asked: Asked) -> Tokenizer:
    vocabulary = sources.fetched(asked.vocab_file, cache_dir=_cache(asked), key="vocab_file")
    return casing.tokenizer(vocabulary, lower_case=asked.do_lower_case)


def _in_bucket(place: Place, text: Text, *, cache: Path) -> Counts | None:
    """Made in the cache, then uploaded as far as it is not there; the manifest last, as a sign that all is."""
    found = feature_files.made(text, cache_dir=cache)
    here = found.files[0].parent
    folders.upload(here, place, names=folders.files_of(here), last=(cache_folders.MANIFEST,))
    return found.counts


def _in_files(files: Sequence[Path], text: Text) -> Counts | None:
    """Made in a folder beside the first file, then joined, in order, to as many files as are named."""
    beside = files[0].with_name(f".{files[0].name}.parts")
    found = feature_files.made_in(beside, text)
    count = len(found.files)
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = found.files[number * count // len(files) : (number + 1) * count // len(files)]
        _write_joined(file, part, text)
    done = beside.with_name(f"{beside.name}.done")  # half removed, it must not be taken for the beginning of other data
    shutil.rmtree(done, ignore_errors=True)  # of a command that was killed here
    beside.rename(done)
    shutil.rmtree(done)
    with contextlib.suppress(FileNotFoundError):
        beside.with_name(f".{beside.name}.lock").unlink()
    return found.counts


def _write_joined(file: Path, parts: Sequence[Path], text: Text) -> None:
    """Joins shards to a file, and writes what tells of it; an earlier file's is gone before this one is there."""
    told = feature_files.manifest_of(file)
    try:
        told.unlink(missing_ok=True)
        records.write_framed(file, _content(parts))
        described = {file.name: {"bytes": file.stat().st_size}}
        write_text(told, cache_folders.manifest(key=text.key(), metadata={}, files=described))
    except OSError as problem:
        raise OutputError(f"{told} cannot be written ({problem.strerror}); choose another place") from None


def _content(files: Sequence[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            while content := file.read(_COPIED_BYTES):
                yield content


def _told(counts: Counts | None, places: Sequence[str]) -> str:
    assert counts is not None, "made of texts"
    figures = {
        "documents": f"{counts.documents:,}",
        "sentences": f"{counts.sentences:,}",
        "records": f"{counts.records:,}",
        "random next": f"{counts.random_next / counts.records:.1%}",
        "masked tokens": f"{counts.masked:,}",
        "written to": ", ".join(places),
    }
    return "\n".join(f"{name:<13}  {figure}" for name, figure in figures.items())
