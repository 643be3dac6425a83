"""The objects of a SavedModel, and one for serving: its answers are those of the model's head.

They hold `encoder/weights/NAME` and `heads/NAME`, under our names. The layers follow one another without a loop, whose
gradients a SavedModel would not carry; to cut stacked variables into layers copies nothing.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from mobilebert_exp.config import LayerLoop
from mobilebert_exp.deployment import INPUTS, SIGNATURE
from mobilebert_exp.modeling.block import dense, plain_gradients
from mobilebert_exp.modeling.checkpoints import companions
from mobilebert_exp.modeling.checkpoints.prefixes import writing
from mobilebert_exp.modeling.checkpoints.weights import Weights, model_of
from mobilebert_exp.modeling.encoder import MobileBertEncoder


class Exported(tf.Module):
    """Variables for the weights of a SavedModel, and the encoder that reads them."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(name="mobilebert")
        assert weights.model is not None, "filled in by whoever converts"
        config = model_of({**weights.model, "layer_loop": LayerLoop.unroll.name})
        variables = {name: tf.Variable(value, name=name) for name, value in weights.values.items()}
        self.heads = {name: value for name, value in variables.items() if name.startswith("heads/")}
        body = {name: value for name, value in variables.items() if name not in self.heads}
        self.encoder = MobileBertEncoder(config, weights=body)


def serving(weights: Weights, folder: Path) -> None:
    """Fills a folder with a SavedModel that has one signature, `serving_default`.

    It takes `input_ids`, `input_mask` and `segment_ids`, int32 `[B, L]`, and gives what the weights have a head for:
    `start_logits` and `end_logits` `[B, L]`; `probabilities` `[B, C]`, or `scores` `[B, 1]` of a regression; without
    such a head `sequence_output` `[B, L, H]` and `pooled_output` `[B, H]`.
    """
    exported = Exported(weights)

    @tf.function(input_signature=specs(INPUTS))
    def serve(input_ids: tf.Tensor, input_mask: tf.Tensor, segment_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        encoded = exported.encoder(input_ids, input_mask, segment_ids)
        found = {}
        if "heads/span/kernel" in exported.heads:
            logits_BL2 = dense(encoded.sequence_BLH, exported.heads, "heads/span")
            found["start_logits"], found["end_logits"] = tf.unstack(logits_BL2, axis=-1)
        if "heads/classifier/kernel" in exported.heads:
            logits_BC = dense(encoded.pooled_BH, exported.heads, "heads/classifier")
            is_score = logits_BC.shape[-1] == 1
            found["scores" if is_score else "probabilities"] = logits_BC if is_score else tf.nn.softmax(logits_BC)
        return found or {"sequence_output": encoded.sequence_BLH, "pooled_output": encoded.pooled_BH}

    with writing(), tokenization(exported, weights), plain_gradients():
        tf.saved_model.save(exported, str(folder), signatures={SIGNATURE: serve})


def specs(names: tuple[str, ...]) -> list[tf.TensorSpec]:
    """Of batches of token ids of any size."""
    return [tf.TensorSpec([None, None], tf.int32, name=name) for name in names]


@contextlib.contextmanager
def tokenization(exported: Exported, weights: Weights) -> Iterator[None]:
    """Until the block ends, the model has its vocabulary as an asset, and knows whether that is of lower-cased text."""
    if weights.lower_case is not None:
        exported.do_lower_case = tf.Variable(weights.lower_case, trainable=False, name="do_lower_case")
    with tempfile.TemporaryDirectory() as folder:
        if weights.vocabulary is not None:
            file = Path(folder) / companions.VOCABULARY_FILE
            file.write_bytes(weights.vocabulary)
            exported.vocab_file = tf.saved_model.Asset(str(file))
        yield
