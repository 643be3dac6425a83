"""One export of random weights by `mobilebert_exp.lite`, with what it takes."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import ai_edge_litert.interpreter  # noqa: F401  before the clock starts
import numpy as np

from mobilebert_exp.deployment import Answer, ExportFormat
from mobilebert_exp.lite.write import tflite
from mobilebert_exp.modeling.checkpoints.weights import model_of
from mobilebert_exp.modeling.variables import encoder_variables, span_variables
from mobilebert_exp.runners import peak_memory


def rows(job: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """Random tokens without padding, two segments."""
    rng, shape = np.random.default_rng(0), (1, job["length"])
    return [
        {
            "input_ids": rng.integers(5, job["architecture"]["vocab_size"], shape).astype(np.int32),
            "input_mask": np.ones(shape, np.int32),
            "segment_ids": np.broadcast_to(np.arange(shape[1]) >= shape[1] // 4, shape).astype(np.int32),
        }
        for _ in range(job["rows"])
    ]


def weights(job: dict[str, Any]) -> dict[str, np.ndarray]:
    """Norms below 1 and small sums, so that activations keep their size through all layers."""
    model, rng, found = model_of(job["architecture"]), np.random.default_rng(1), {}
    for spec in [*encoder_variables(model), *span_variables(model)]:
        drawn = rng.standard_normal(spec.shape, np.float32)
        width = spec.shape[-2] if spec.name.endswith("kernel") else 100
        spread = (0.1 if spec.name.endswith("output/kernel") else 1.0) / np.sqrt(width)
        found[spec.name] = drawn * np.float32(spread) + np.float32(0.9 * spec.name.endswith("gamma"))
    return found


def main() -> None:
    job = json.loads(sys.argv[1])
    values, given, model = weights(job), rows(job), model_of(job["architecture"])
    imported, started = peak_memory.peak_bytes(), time.perf_counter()
    content = tflite(
        values,
        model=model,
        head=Answer.span,
        format=ExportFormat[f"tflite_{job['format']}"],
        length=job["length"],
        calibration_rows=given,
    )
    Path(job["file"]).write_bytes(content)
    seconds = time.perf_counter() - started
    above = (peak_memory.peak_bytes() - imported) / 2**20
    print(json.dumps({"seconds": seconds, "bytes": len(content), "above_mib": max(above, 1.0)}))


if __name__ == "__main__":
    main()
