"""An exported file as its flatbuffer says it is, checked before anything runs it.

The interpreter reads a file without looking whether it is whole, and a truncated one takes the process down with it.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from mobilebert_exp.errors import ExportError

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT

IDENTIFIER = b"TFL3"
SUFFIX = ".tflite"


def opened(path: Path) -> ModelT:
    """The model in a file; its constants stay on disk until they are looked at.

    Raises:
      ExportError: it is not there, not a TFLite file, or not whole.
    """
    import struct

    from ai_edge_litert.schema_py_generated import ModelT

    content = _mapped(path)
    if content[4:8] != IDENTIFIER:
        raise ExportError(f"{path} is not a TFLite file; name one that mode=export wrote")
    try:
        model = ModelT.InitFromPackedBuf(content, 0)
    except (struct.error, ValueError, IndexError, TypeError, UnicodeDecodeError):
        raise ExportError(f"{path} is truncated or damaged; copy or export it again") from None
    if not model.subgraphs or not model.operatorCodes:
        raise ExportError(f"{path} has no graph in it; export it again")
    return model


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ExportError(f"{path} is not there; mode=export writes such files") from None
    except (OSError, ValueError) as problem:  # ValueError: an empty file
        reason = problem.strerror if isinstance(problem, OSError) else "it is empty"
        raise ExportError(f"{path} cannot be read ({reason}); name a .tflite") from None
