"""What MLflow accepts as a name and as a value (mlflow/utils/validation.py), and how we keep within it.

And how long a file may take.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from pathlib import Path

MAX_KEY_LENGTH = 250
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 5000  # 8000 since MLflow 2.x; 5000 is safe for older servers
PARAMS_PER_CALL = 100
SLOWEST_BYTES_PER_S = 10 * 2**20  # of a server, and its own store behind it, that is waited for

_REFUSED = re.compile(r"[^\w.\-/ ]")  # a colon is refused by servers on Windows


def key(name: str) -> str:
    """The name as MLflow takes it: a refused character becomes `_x40_` (its code), a long name ends in its digest."""
    clean = _REFUSED.sub(_code, name) or "_"
    if posixpath.normpath(clean) != clean or clean[0] in "./":  # would be another path, or lead out of the run
        clean = re.sub(r"^\.|/", _code, clean)
    if len(clean) <= MAX_KEY_LENGTH:
        return clean
    mark = "-" + hashlib.sha256(name.encode()).hexdigest()[:12]
    return clean[: MAX_KEY_LENGTH - len(mark)] + mark


def cut(text: str, *, limit: int, whole: str) -> str:
    """The head of a text that is too long, and where the `whole` of it is; texts that differ stay different."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    mark = f" … [{len(text)} characters, sha256 {digest}, whole in artifact {whole}]"
    return text[: limit - len(mark)] + mark


def extra_s(path: Path) -> float:
    """How much longer than figures a file, or the files of a folder, may take to arrive."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files) / SLOWEST_BYTES_PER_S


def _code(match: re.Match[str]) -> str:
    return f"_x{ord(match.group()):x}_"
