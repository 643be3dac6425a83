"""Ranges of activations, measured by running the float file on real inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mobilebert_exp.lite import flatbuffer, precision
from mobilebert_exp.lite.graph import Graph
from mobilebert_exp.lite.interpreter import without_notes
from mobilebert_exp.lite.precision import Plan, Precision
from mobilebert_exp.lite.scales import Scale, of_range

# Whose ranges follow from those of others, as a margin below, or because they are the same numbers.
DERIVED = {"/attention/masked": "/attention/scores", "/attention/context/heads": "/attention/context"}
Range = tuple[float, float]


def wanted(graph: Graph, chosen: Precision) -> set[str]:
    """Names of the results whose ranges a file of this precision needs."""
    asked: set[str] = set()

    def scale_of(name: str) -> Scale:
        asked.add(name)
        return of_range(-1, 1)

    precision.planned(graph, chosen, scale_of=scale_of)
    for derived, source in DERIVED.items():
        asked = {name.removesuffix(derived) + source if name.endswith(derived) else name for name in asked}
    return asked


def measured(
    graph: Graph, names: set[str], rows: Iterable[Mapping[str, np.ndarray]], *, length: int, threads: int
) -> dict[str, Range]:
    """Lowest and highest of results over all rows, each `[1, length]`; empty without any row."""
    found: dict[str, Range] = {}
    interpreter: Any = None
    for row in rows if names else ():
        interpreter = interpreter or _interpreter(graph, names, length=length, threads=threads)
        for given in interpreter.get_input_details():
            interpreter.set_tensor(given["index"], row[given["name"]])
        interpreter.invoke()
        for shown in interpreter.get_output_details():
            values = interpreter.get_tensor(shown["index"])
            low, high = float(values.min()), float(values.max())
            before = found.get(shown["name"], (low, high))
            found[shown["name"]] = (float(np.minimum(low, before[0])), float(np.maximum(high, before[1])))
    return found


def _interpreter(graph: Graph, names: set[str], *, length: int, threads: int) -> Any:
    """Of the graph in float32, with the named results as its outputs."""
    from ai_edge_litert.interpreter import Interpreter

    plan = precision.planned(graph, precision.FLOAT, scale_of=lambda name: of_range(-1, 1))
    results = {operation.output.name: operation.output for operation in plan.operations}
    shown = Plan(plan.inputs, plan.operations, {name: results[name] for name in sorted(names)})
    with without_notes():
        interpreter = Interpreter(model_content=flatbuffer.written(shown, length=length), num_threads=threads)
        interpreter.allocate_tensors()
    return interpreter
