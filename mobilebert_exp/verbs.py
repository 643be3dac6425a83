"""Commands that are no experiment: `python -m mobilebert_exp VERB …`. Listing them imports none."""

from __future__ import annotations

import importlib

NAMES = {"doctor": "mobilebert_exp.doctor"}


def run(name: str, arguments: list[str]) -> int:
    """Does what the verb says; returns the exit code."""
    code: int = importlib.import_module(NAMES[name]).main(arguments)
    return code
