"""One export of tf-models' encoder under its span head by TensorFlow's converter, with what it takes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from official.nlp.configs import encoders
from official.nlp.modeling import models, networks  # noqa: F401  before the clock starts

from benchmarks.peers.our_export import rows
from benchmarks.peers.tf_models import encoder_config
from mobilebert_exp.runners import peak_memory


def serving(job: dict[str, Any]) -> tuple[tf.Module, Any]:
    """The model, and its function of one row."""
    model = models.BertSpanLabeler(encoders.build_encoder(encoder_config(job["architecture"])))
    names = ("input_word_ids", "input_mask", "input_type_ids")

    @tf.function(input_signature=[tf.TensorSpec([1, job["length"]], tf.int32, name=name) for name in names])
    def serve(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        start, end = model(dict(zip(names, inputs, strict=True)), training=False)
        return {"start_logits": start, "end_logits": end}

    return model, serve.get_concrete_function()


def converter(job: dict[str, Any], model: tf.Module, function: Any) -> Any:
    found = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    if job["format"] != "float":
        found.optimizations = [tf.lite.Optimize.DEFAULT]
    if job["format"] == "int8":

        def representative() -> Iterator[list[np.ndarray]]:
            for row in rows(job):
                yield [row["input_ids"], row["input_mask"], row["segment_ids"]]

        found.representative_dataset = representative
    return found


def main() -> None:
    job = json.loads(sys.argv[1])
    model, function = serving(job)
    imported, started = peak_memory.peak_bytes(), time.perf_counter()
    content = converter(job, model, function).convert()
    Path(job["file"]).write_bytes(content)
    seconds = time.perf_counter() - started
    above = (peak_memory.peak_bytes() - imported) / 2**20
    print(json.dumps({"seconds": seconds, "bytes": len(content), "above_mib": max(above, 1.0)}))


if __name__ == "__main__":
    main()
