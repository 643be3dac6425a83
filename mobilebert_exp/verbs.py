"""What the first word of a command may name in place of an experiment; a verb's module is imported when asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from mobilebert_exp.errors import UserError

NAMES = {
    "translate": "mobilebert_exp.translate"
}  # each module offers `main(arguments: list[str]) -> int`, an exit code


def run(name: str, arguments: Sequence[str]) -> int:
    """The exit code of a verb; a user's mistake is one line and 2."""
    try:
        code: int = importlib.import_module(NAMES[name]).main(list(arguments))
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    return code
