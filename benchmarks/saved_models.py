"""How a SavedModel of `opt` is best laid out: what exporting, loading, answering and a gradient take, and its size.

`python -m benchmarks.saved_models [--layers 24] [--calls 20]`. The layers follow one another, or are looped over. An
answer is that of one text of 128 tokens; a gradient, of eight such texts, with respect to every variable.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.processes import SETTINGS

LENGTH, BATCH, GRADIENTS = 128, 8, 3
LAYOUTS = ("unroll", "scan")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.saved_models", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--calls", type=int, default=20, help="timed, of which the fastest counts")
    chosen = parser.parse_args()
    os.environ.update(SETTINGS)
    print("| layout | export s | graph MB | load s | answer ms | gradient s |\n|---|---|---|---|---|---|")
    for name in LAYOUTS:
        with tempfile.TemporaryDirectory(prefix="mobilebert_exp-export-") as folder:
            print(f"| `{name}` | {' | '.join(_measure(name, Path(folder), chosen.layers, chosen.calls))} |", flush=True)


def _measure(layout: str, folder: Path, layers: int, calls: int) -> list[str]:
    import tensorflow as tf

    model = _model(layout, layers)
    export_s = _seconds(lambda: _export(model, folder))
    graph_mb = (folder / "saved_model.pb").stat().st_size / 1e6
    loaded: list[Any] = []
    load_s = _seconds(lambda: loaded.append(tf.saved_model.load(str(folder))))
    (ready,) = loaded
    text, texts = (tf.ones([rows, LENGTH], tf.int32) for rows in (1, BATCH))
    _seconds(lambda: ready.encode(text))
    answer_ms = 1000 * min(_seconds(lambda: ready.encode(text)) for _ in range(calls))
    if layout == "scan":
        gradient = "none"  # but in a program that has registered those of this package
    else:
        _gradient(ready, texts)
        gradient = f"{min(_seconds(lambda: _gradient(ready, texts)) for _ in range(GRADIENTS)):.2f}"
    return [f"{export_s:.1f}", f"{graph_mb:.1f}", f"{load_s:.1f}", f"{answer_ms:.0f}", gradient]


def _model(layout: str, layers: int) -> Any:
    """A module that holds an encoder of that layout, with new weights."""
    import tensorflow as tf

    from mobilebert_exp import compose
    from mobilebert_exp.modeling.encoder import MobileBertEncoder

    model = tf.Module()
    model.encoder = MobileBertEncoder(
        compose(["model=opt", f"model.num_layers={layers}", f"model.layer_loop={layout}"]).model
    )
    model.every = list(model.encoder.weights.values())
    return model


def _export(model: Any, folder: Path) -> None:
    import tensorflow as tf

    from mobilebert_exp.modeling.block import plain_gradients

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def encode(ids: tf.Tensor) -> tf.Tensor:
        return model.encoder(ids, tf.ones_like(ids), tf.zeros_like(ids)).sequence_BLH

    model.encode = encode
    with plain_gradients():  # which the loop's are not: it has its own, and TensorFlow could not save them
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(model, str(folder), options=options)


def _gradient(loaded: Any, texts: Any) -> None:
    import tensorflow as tf

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(loaded.encode(texts)))
        return [tf.convert_to_tensor(part) for part in tape.gradient(loss, list(loaded.every)) if part is not None]

    if not hasattr(loaded, "step"):
        loaded.step = step
    loaded.step()


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
