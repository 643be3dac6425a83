"""SavedModels in the manner of TF-Hub: an encoder that others build upon, with the signatures of the original modules.

What is loaded is called with a mapping of `input_word_ids`, `input_mask` and `input_type_ids`, int32 `[B, L]`, and with
`training`; it lists its variables, so that `hub.KerasLayer(PATH, trainable=True)` fine-tunes it. `mlm` is such an
object once more, which also takes `masked_lm_positions` `[B, P]`.

Shapes: B batch, L tokens (M keys), A layers, N heads, H hidden size, P places that are masked, V words.
Sources: tensorflow/models official/projects/mobilebert/export_tfhub.py; google-research/bert, the modules' signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from mobilebert_exp import deployment
from mobilebert_exp.modeling.block import dense, plain_gradients
from mobilebert_exp.modeling.checkpoints.exported import Exported, specs, tokenization
from mobilebert_exp.modeling.checkpoints.prefixes import writing
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.pretrainer import masked_lm_scores

INPUTS = ("input_word_ids", "input_mask", "input_type_ids")
POSITIONS, ORIGINAL_POSITIONS = "masked_lm_positions", "mlm_positions"
MASKED_LM, NEXT_SENTENCE = "heads/masked_lm/", "heads/next_sentence/"
Tensors = Mapping[str, tf.Tensor]


def save(weights: Weights, folder: Path) -> None:
    """Fills a folder with the SavedModel; `mlm` is there if the weights have that head."""
    reusable = _Reusable(weights)
    with writing(), tokenization(reusable, weights), plain_gradients():
        _trace(reusable, INPUTS)
        if reusable.mlm is not None:
            _trace(reusable.mlm, (*INPUTS, POSITIONS))
        tf.saved_model.save(reusable, str(folder), signatures=_signatures(reusable))


class _Callable(tf.Module):
    """What hub.KerasLayer asks of an object; tf.Module's own lists are properties, which a SavedModel does not keep."""

    variables: Any = ()
    trainable_variables: Any = ()

    def lists(self, variables: list[tf.Variable]) -> None:
        self.variables, self.trainable_variables = variables, list(variables)


class _Reusable(Exported, _Callable):
    """The encoder, and the head for masked words if there is one."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self.lists(list(self.encoder.weights.values()))
        graph = tf.function(self._encode)
        # Called as they are: a tf.function would be traced anew for each name of an input, and once more while saving.
        self._graphs = tuple(graph.get_concrete_function(*specs(INPUTS), training) for training in (False, True))
        has_head = any(name.startswith(MASKED_LM) for name in self.heads)
        self.mlm: Any = _MaskedLm(self.encoded, self) if has_head else None

    @tf.function
    def __call__(self, inputs: Tensors, training: bool = False) -> dict[str, Any]:
        """As tf-models' encoder answers, but for the scores of attention, which here are those before the softmax."""
        return self.encoded(inputs, training)

    def encoded(self, inputs: Tensors, training: bool) -> dict[str, Any]:
        """The same, by the graphs that all others share."""
        found: dict[str, Any] = self._graphs[training](*(inputs[name] for name in INPUTS))
        return found

    def _encode(self, ids: tf.Tensor, mask: tf.Tensor, types: tf.Tensor, training: bool) -> dict[str, Any]:
        seed = tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32) if training else None
        found = self.encoder(ids, mask, types, seed=seed, all_layers=True)
        return {
            "sequence_output": found.sequence_BLH,
            "pooled_output": found.pooled_BH,
            "default": found.pooled_BH,
            "encoder_outputs": tf.unstack(found.hidden_ABLH),
            "attention_scores": tf.unstack(found.scores_ABNLM),
        }


class _MaskedLm(_Callable):
    """The encoder with the heads of pre-training."""

    def __init__(self, encode: Callable[[Tensors, bool], dict[str, Any]], owner: Exported) -> None:
        super().__init__(name="mlm")
        self._encode, self._config = encode, owner.encoder.config
        self._words = owner.encoder.weights["embeddings/word/table"]
        self._heads = {
            name: value for name, value in owner.heads.items() if name.startswith((MASKED_LM, NEXT_SENTENCE))
        }
        self.lists([*owner.encoder.weights.values(), *self._heads.values()])

    @tf.function
    def __call__(self, inputs: Tensors, training: bool = False) -> dict[str, Any]:
        """What the encoder answers, `mlm_logits` `[B, P, V]` and, if there is that head, `next_sentence` `[B, 2]`."""
        found = dict(self._encode({name: inputs[name] for name in INPUTS}, training))
        places_BPH = tf.gather(found["sequence_output"], inputs[POSITIONS], batch_dims=1)
        found["mlm_logits"] = masked_lm_scores(places_BPH, self._words, self._heads, self._config)
        if f"{NEXT_SENTENCE}kernel" in self._heads:
            found["next_sentence"] = dense(found["pooled_output"], self._heads, "heads/next_sentence")
        return found


def _trace(module: tf.Module, names: tuple[str, ...]) -> None:
    """A graph with dropout, and one without."""
    for training in (True, False):
        module.__call__.get_concrete_function(dict(zip(names, specs(names), strict=True)), training=training)


def _signatures(reusable: _Reusable) -> dict[str, Any]:
    """For those who know no objects: `serving_default` with the names of tf-models, the others with TensorFlow 1's."""

    @tf.function(input_signature=specs(INPUTS))
    def whole(input_word_ids: tf.Tensor, input_mask: tf.Tensor, input_type_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        found = reusable(_named(input_word_ids, input_mask, input_type_ids))
        stacked = {name: tf.stack(found[name], axis=1) for name in ("encoder_outputs", "attention_scores")}
        return {name: found[name] for name in ("sequence_output", "pooled_output")} | stacked

    @tf.function(input_signature=specs(deployment.INPUTS))
    def tokens(input_ids: tf.Tensor, input_mask: tf.Tensor, segment_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        found = reusable(_named(input_ids, input_mask, segment_ids))
        return {name: found[name] for name in ("sequence_output", "pooled_output")}

    @tf.function(input_signature=specs((*deployment.INPUTS, ORIGINAL_POSITIONS)))
    def mlm(
        input_ids: tf.Tensor, input_mask: tf.Tensor, segment_ids: tf.Tensor, mlm_positions: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        found = reusable.mlm({**_named(input_ids, input_mask, segment_ids), POSITIONS: mlm_positions})
        names = ("sequence_output", "pooled_output", "mlm_logits", "next_sentence")
        return {name: found[name] for name in names if name in found}

    @tf.function(input_signature=[])
    def tokenization_info() -> dict[str, tf.Tensor]:
        return {"vocab_file": reusable.vocab_file.asset_path, "do_lower_case": reusable.do_lower_case}

    signatures = {deployment.SIGNATURE: whole, "tokens": tokens}
    if reusable.mlm is not None:
        signatures["mlm"] = mlm
    if hasattr(reusable, "vocab_file") and hasattr(reusable, "do_lower_case"):
        signatures["tokenization_info"] = tokenization_info
    return signatures


def _named(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
    return dict(zip(INPUTS, inputs, strict=True))
