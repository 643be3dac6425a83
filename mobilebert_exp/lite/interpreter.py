"""Runs exported files as devices do: LiteRT's interpreter, tensors bound by their names in the signature.

Shapes: B rows, L tokens of a row, which the interpreter is given one at a time.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilebert_exp.deployment import INPUTS, SIGNATURE
from mobilebert_exp.errors import ExportError
from mobilebert_exp.lite.model_file import opened

if TYPE_CHECKING:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

DELEGATE = "DELEGATE"  # what the interpreter calls a part of the graph that it has handed to XNNPACK
_NOTE = b"INFO: "  # how a note of LiteRT's begins
# What LiteRT says of an op that it does not have: of a custom one, of a version of a built-in one, of TensorFlow's own.
_MISSING = (
    re.compile(r"unresolved custom op: (\w+)"),
    re.compile(r"op for builtin opcode '(\w+)'"),
    re.compile(r"Node number \d+ \((Flex\w+)\) failed to prepare"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """What of a graph XNNPACK computes.

    Attributes:
      partitions: parts of the graph that it was handed; between two of them the interpreter has its turn.
      delegated: ops in them.
      left: the other ops, by type.
    """

    partitions: int
    delegated: int
    left: Mapping[str, int]


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Keeps LiteRT's notes off the terminal while an interpreter is made: it has no setting for them in Python.

    Whatever else the process says on its standard error meanwhile is passed on at the end; if it is killed before that,
    which a file that `opened` takes for whole should not do, its last words are lost.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # there is none, and nobody to be kept from
            said, terminal = stack.enter_context(tempfile.TemporaryFile()), os.dup(2)
            stack.callback(_pass_on, said.fileno(), terminal)
            os.dup2(said.fileno(), 2)
        yield


def _pass_on(said: int, terminal: int) -> None:
    os.dup2(terminal, 2)
    os.lseek(said, 0, os.SEEK_SET)
    with os.fdopen(said, "rb", closefd=False) as lines, os.fdopen(terminal, "wb") as shown:
        shown.writelines(line for line in lines if not line.startswith(_NOTE))


def load_runtime() -> None:
    """Loads LiteRT's libraries; what memory the process takes from here on is its models'."""
    from ai_edge_litert.interpreter import Interpreter

    assert Interpreter is not None


class LiteModel:
    """An exported file, ready to run.

    Attributes:
      path: the file.
      length: tokens of an input; None where it is dynamic.
      output_names: as the signature has them, sorted.

    Raises:
      ExportError: the file is not whole, not one of ours, or has an op that the interpreter lacks.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        self.path = Path(path)
        opened(self.path)
        self._interpreter = self._created(threads)
        name = self._signature()
        self._runner = self._interpreter.get_signature_runner(name)
        self._inputs, self._outputs = self._runner.get_input_details(), self._runner.get_output_details()
        self._check_inputs(name)
        self.length = self._length()
        self.output_names = sorted(self._outputs)

    def outputs(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of rows, one after another: each `[B, …]` float32.

        Args:
          batch: at least `input_ids`, `input_mask` and `segment_ids`, integers `[B, L]`.

        Raises:
          ExportError: a row is longer or shorter than the file takes, or an op cannot be run.
        """
        import numpy as np

        columns = {name: np.asarray(batch[name]).astype(self._inputs[name]["dtype"]) for name in INPUTS}
        length = columns[INPUTS[0]].shape[1]
        if self.length not in (None, length):
            raise ExportError(
                f"{self.path} takes {self.length} tokens and is given {length}; set task.max_seq_length={self.length}, "
                "or export with export.dynamic_length=true"
            )
        count = columns[INPUTS[0]].shape[0]
        rows = [self._run({name: values[row : row + 1] for name, values in columns.items()}) for row in range(count)]
        return {name: np.concatenate([row[name] for row in rows]) for name in self.output_names}

    def delegation(self) -> Delegation:
        """What XNNPACK computes of the graph; known once a row was run."""
        nodes = self._interpreter._get_ops_details()  # there is no public way to learn it
        parts = [node for node in nodes if node["op_name"] == DELEGATE]
        ops = [node for node in nodes if node["op_name"] != DELEGATE]
        maker = {int(made): index for index, node in enumerate(ops) for made in node["outputs"]}
        inside: set[int] = set()
        for part in parts:
            _walk_back(part["outputs"], {int(given) for given in part["inputs"]}, ops=ops, maker=maker, inside=inside)
        left = [node["op_name"] for index, node in enumerate(ops) if index not in inside]
        counts = {name: left.count(name) for name in sorted(set(left))}
        return Delegation(partitions=len(parts), delegated=len(inside), left=counts)

    def _created(self, threads: int) -> Interpreter:
        from ai_edge_litert.interpreter import Interpreter

        try:
            made = Interpreter(model_path=str(self.path), num_threads=threads)
            made.allocate_tensors()  # tells which op is lacking
        except (RuntimeError, ValueError) as problem:
            raise self._told(problem) from None
        return made

    def _signature(self) -> str:
        """Ours, or the only one that somebody else's file has."""
        names = list(self._interpreter.get_signature_list())
        if SIGNATURE not in names and len(names) != 1:
            found = ", ".join(sorted(names)) or "none"
            raise ExportError(
                f"{self.path} has no signature {SIGNATURE} (there is {found}); export it with mode=export"
            )
        return SIGNATURE if SIGNATURE in names else names[0]

    def _check_inputs(self, signature: str) -> None:
        import numpy as np

        fits = sorted(self._inputs) == sorted(INPUTS) and all(
            len(details["shape"]) == 2 and details["shape"][0] == 1 and np.issubdtype(details["dtype"], np.integer)
            for details in self._inputs.values()
        )
        if not fits:
            found = ", ".join(
                f"{name} {np.dtype(details['dtype']).name} {details['shape'].tolist()}"
                for name, details in sorted(self._inputs.items())
            )
            raise ExportError(
                f"{self.path}: signature {signature} takes {found or 'nothing'}, where {', '.join(INPUTS)} "
                "are wanted, integers [1, tokens]; name a file that mode=export wrote"
            )

    def _length(self) -> int | None:
        shapes = [details["shape_signature"] for details in self._inputs.values()]
        return None if any(shape[1] < 0 for shape in shapes) else int(shapes[0][1])

    def _run(self, row: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            found = self._runner(**row)  # which allocates anew only when the length has changed
        except (RuntimeError, ValueError) as problem:
            raise self._told(problem) from None
        return {name: _real(value, self._outputs[name]) for name, value in found.items()}

    def _told(self, problem: Exception) -> ExportError:
        """The interpreter's words of what it lacks, in one line."""
        for pattern in _MISSING:
            if found := pattern.search(str(problem)):
                return ExportError(
                    f"{self.path} needs the op {found[1]}, which the interpreter lacks; export it with mode=export, "
                    "or install a newer ai-edge-litert"
                )
        reason = " ".join(str(problem).split()).rstrip(".")
        return ExportError(f"{self.path} cannot be run ({reason}); export it again")


def _real(value: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """An output in float32; one in integers stands for (value - zero point) * scale."""
    import numpy as np

    scale, zero = details["quantization"]
    if np.issubdtype(value.dtype, np.integer) and scale:
        return (value.astype(np.float32) - np.float32(zero)) * np.float32(scale)
    return value.astype(np.float32, copy=False)


def _walk_back(
    ends: Iterable[Any], limits: set[int], *, ops: list[dict[str, Any]], maker: Mapping[int, int], inside: set[int]
) -> None:
    """Adds to `inside` the ops between the tensors `limits` and `ends`."""
    waiting = [int(end) for end in ends]
    while waiting:
        tensor = waiting.pop()
        op = maker.get(tensor)
        if op is None or op in inside or tensor in limits:
            continue
        inside.add(op)
        waiting += [int(given) for given in ops[op]["inputs"] if given >= 0]
