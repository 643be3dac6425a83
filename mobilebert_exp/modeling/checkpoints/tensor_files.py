"""Files of named tensors: safetensors, and PyTorch's pickles, of which none may run code; nothing in them is trusted.

A tensor is read when it is asked for, so that a file is never held beside all that was made of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickletools
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilebert_exp.errors import CheckpointError

SAFETENSORS = ".safetensors"
MOST_BYTES = 4 * 2**30  # the largest preset has 1.2 GB; a file may be sparse, and an archive a bomb
MOST_HEADER_BYTES = 16 * 2**20  # a full-size model's has 0.1 MB
FLOATING = ("F64", "F32", "F16", "BF16")
ALGORITHM = "sha256"
DIGEST = f"mobilebert_exp.{ALGORITHM}"  # in the metadata of files that we write: of everything after the header
HEADER_LENGTH = struct.Struct("<Q")  # at the start of a safetensors file
MOST_PICKLE_BYTES = 2 * 2**20  # a full-size model's has 0.2 MB
ARCHIVE_START = b"PK\x03\x04"  # of PyTorch's files since 1.6; before they were pickles, one after another, then numbers
PICKLES = 5  # of the latter: a mark, a version, the machine, the tensors, the keys of their numbers
# What a file of tensors calls. PyTorch lets more pass, with which a few bytes can ask for any amount of memory.
HARMLESS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)
SHARED = 2  # times the size of a file are its tensors at most: each may be there under a second name


@dataclass(kw_only=True, frozen=True, slots=True)
class Tensor:
    """One that lies in a file: its name and shape, its type as safetensors calls it, and how to read its values."""

    file: Path
    name: str
    shape: tuple[int, ...]
    kind: str
    load: Callable[[], np.ndarray]


@contextlib.contextmanager
def opened(files: Sequence[Path]) -> Iterator[dict[str, Tensor]]:
    """The tensors of some files by their names, to be read while this is open.

    Raises:
      CheckpointError: a file is not there, damaged, too large, or would run code; two hold the same name.
    """
    with contextlib.ExitStack() as stack:
        found: dict[str, Tensor] = {}
        size = 0
        for file in files:
            size += _check_size(file, before=size)
            read = _safetensors(file, stack) if file.name.endswith(SAFETENSORS) else _pytorch(file)
            if twice := found.keys() & read.keys():
                raise damaged(file, f"{min(twice)} stands in another file of the checkpoint too")
            found |= read
        yield found


def damaged(file: Path, why: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {file} is damaged ({why}); fetch it again, or name another")


def _check_size(file: Path, *, before: int = 0) -> int:
    """Its bytes; refuses what is not there, is no file, or is, with those before it, larger than any MobileBERT."""
    try:
        if not file.is_file():
            raise CheckpointError(f"checkpoint {file}: there is no such file; fetch it, or name another")
        size = file.stat().st_size
    except OSError as problem:
        raise _unreadable(file, problem) from None
    if before + size > MOST_BYTES:
        raise _too_large(file, before + size)
    return size


def _unreadable(file: Path, problem: OSError) -> CheckpointError:
    return CheckpointError(f"checkpoint {file} cannot be read ({problem.strerror}); name a readable file")


def _too_large(file: Path, size: int) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {file} is refused: {size / 2**30:,.1f} GiB are more than any MobileBERT has; name another file"
    )


def _safetensors(file: Path, stack: contextlib.ExitStack) -> dict[str, Tensor]:
    """The library checks the header: its JSON, and that the tensors lie side by side and fill the file."""
    import ml_dtypes  # noqa: F401 - teaches NumPy the name bfloat16, which safetensors asks it for
    import safetensors

    start = _data_start(file)
    try:
        source = stack.enter_context(safetensors.safe_open(file, framework="np"))
        slices = {name: source.get_slice(name) for name in source.keys()}  # noqa: SIM118 - it is no mapping
        found = {
            name: Tensor(
                file=file,
                name=name,
                shape=tuple(part.get_shape()),
                kind=part.get_dtype(),
                load=lambda name=name: source.get_tensor(name),  # type: ignore[misc]
            )
            for name, part in slices.items()
        }
        digest = (source.metadata() or {}).get(DIGEST)
    except safetensors.SafetensorError as problem:
        raise damaged(file, _first_line(problem)) from None
    if digest is not None and digest != _digest(file, start):
        raise damaged(file, f"its tensors differ from the {ALGORITHM} that was written with them")
    return found


def _data_start(file: Path) -> int:
    """Where the header ends."""
    try:
        with file.open("rb") as stream:
            head = stream.read(HEADER_LENGTH.size)
    except OSError as problem:
        raise _unreadable(file, problem) from None
    if len(head) < HEADER_LENGTH.size:
        raise damaged(file, f"{len(head)} bytes are no safetensors file")
    length = int(HEADER_LENGTH.unpack(head)[0])
    if length > MOST_HEADER_BYTES:
        raise damaged(file, f"a header of {length:,} bytes")
    return HEADER_LENGTH.size + length


def _digest(file: Path, start: int) -> str:
    """Of everything from `start` on."""
    with file.open("rb") as stream:
        stream.seek(start)
        return hashlib.file_digest(stream, ALGORITHM).hexdigest()


def write_safetensors(file: Path, values: Mapping[str, np.ndarray]) -> None:
    """Writes float32 tensors with their digest, marked as PyTorch's, and reads them back to see that they lie there.

    Raises:
      OSError: the file cannot be written.
    """
    import safetensors
    from safetensors.numpy import save_file

    digest = hashlib.new(ALGORITHM)
    for name in sorted(values):  # as they will lie in the file
        digest.update(values[name].data)
    try:
        file.touch()
        mode = stat.S_IMODE(file.stat().st_mode)  # the library's file could be read by its owner alone
        save_file(dict(values), file, metadata={"format": "pt", DIGEST: digest.hexdigest()})
        file.chmod(mode)
    except safetensors.SafetensorError as problem:
        raise OSError(0, _first_line(problem)) from None
    with opened([file]):
        pass


def _pytorch(file: Path) -> dict[str, Tensor]:
    """A file of `torch.save`, whose pickle may build tensors and nothing else, out of the numbers that are there."""
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            f"checkpoint {file} is a file of PyTorch, which is not installed here; "
            "install mobilebert-exp[interop], or name its safetensors"
        ) from None
    size = file.stat().st_size
    try:
        is_archive = _check_pickles(file, size)
        found = torch.load(file, map_location=_counted(file, size), weights_only=True, mmap=is_archive)
    except CheckpointError:
        raise
    except Exception as problem:  # reading a damaged pickle may raise anything
        raise damaged(file, _first_line(problem)) from None
    if not isinstance(found, Mapping):
        raise damaged(file, f"it holds a {type(found).__name__}, not tensors by their names")
    stated = sum(value.numel() * value.element_size() for value in found.values() if isinstance(value, torch.Tensor))
    if stated > SHARED * size:  # one number may pose as many
        raise damaged(file, f"its tensors would have {stated:,} bytes, and it has {size:,}")
    return {str(name): _of_pytorch(value, name=str(name), file=file) for name, value in found.items()}


def _check_pickles(file: Path, size: int) -> bool:
    """Looks through the pickles of a file before they are run; returns whether it is an archive."""
    with file.open("rb") as stream:
        head = io.BytesIO(stream.read(MOST_PICKLE_BYTES))
    if not head.getvalue().startswith(ARCHIVE_START):
        for _ in range(PICKLES):
            _check_pickle(head, file)
        return False
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if (unpacked := sum(member.file_size for member in members)) > size:
            raise damaged(file, f"unpacked it would have {unpacked:,} bytes, and it has {size:,}")
        for member in members:
            if member.filename.lower().endswith(".pkl"):
                with archive.open(member) as pickled:
                    _check_pickle(io.BytesIO(pickled.read(MOST_PICKLE_BYTES)), file)
    return True


def _check_pickle(stream: io.BytesIO, file: Path) -> None:
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name == "GLOBAL" and not HARMLESS.fullmatch(str(argument)):
            called = re.sub(r"[^\w.]+", ".", str(argument))[:80]
            raise CheckpointError(
                f"checkpoint {file} is refused: it is a pickle that calls {called} when it is read; "
                "name its safetensors, or another checkpoint"
            )


def _counted(file: Path, size: int) -> Callable[[Any, str], Any]:
    """For `map_location`: gives each storage back as it is, in memory, while all of them fit into the file."""
    left = size

    def place(storage: Any, _: str) -> Any:
        nonlocal left
        left -= storage.nbytes()
        if left < 0:
            raise damaged(file, f"its numbers would have more than the {size:,} bytes that it has")
        return storage

    return place


def _of_pytorch(value: Any, *, name: str, file: Path) -> Tensor:
    import torch

    if not isinstance(value, torch.Tensor):
        return Tensor(file=file, name=name, shape=(), kind=type(value).__name__, load=lambda: np.zeros(()))
    kinds = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    return Tensor(
        file=file,
        name=name,
        shape=tuple(value.shape),
        kind=kinds.get(value.dtype, str(value.dtype)),
        load=lambda: value.detach().to(torch.float32 if value.dtype is torch.bfloat16 else value.dtype).numpy(),
    )


def values_of(tensor: Tensor) -> np.ndarray:
    """Its values, as they lie in the file.

    Raises:
      CheckpointError: they cannot be read.
    """
    import safetensors

    try:
        return tensor.load()
    except (OSError, safetensors.SafetensorError) as problem:
        raise damaged(tensor.file, _first_line(problem)) from None


def _first_line(problem: Exception) -> str:
    return next(iter(str(problem).strip().splitlines()), type(problem).__name__)[:200]
