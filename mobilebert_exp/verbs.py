"""What the first word of a command may name in place of an experiment; a verb's module is imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

NAMES = {  # each module offers `main(arguments: list[str]) -> int`, an exit code
    "convert": "mobilebert_exp.convert",
    "create_pretraining_data": "mobilebert_exp.pretraining_data",
    "doctor": "mobilebert_exp.doctor",
    "translate": "mobilebert_exp.translate",
}


def run(name: str, arguments: Sequence[str]) -> int:
    """Does what the verb says; returns its exit code."""
    code: int = importlib.import_module(NAMES[name]).main(list(arguments))
    return code
