"""The MobileBERT encoder: embeddings, then one block looped over stacked layer variables.

Plain `tf.Module` and `tf.Variable`. Under `layer_loop: scan` the blocks are one `tf.while_loop` whose slices come from
lists of tensors: the graph holds one block, and the gradient of a slice is written once instead of being added to a
dense zero (what `tf.gather` costs). Under `unroll` the same function is called once a layer: a flat graph, for export.

Shapes: B batch, L tokens, N heads, M keys, H hidden size, E embedding size, A layers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from mobilebert_exp.config import FakeQuantization, LayerLoop, ModelConfig
from mobilebert_exp.modeling import fake_quant
from mobilebert_exp.modeling.block import block, dense, dropout, fold, normalize
from mobilebert_exp.modeling.initializers import initial_value
from mobilebert_exp.modeling.layer_slices import LayerSlices, with_empty_gradients
from mobilebert_exp.modeling.variables import QUANTIZERS, STACKED, VariableSpec, encoder_variables

EMBEDDING_DROPOUT = 1_000_003  # seeds 0..A-1 belong to the layers


class EncoderOutput(NamedTuple):
    """What the encoder returns.

    Attributes:
      sequence_BLH: output of the last block, float32.
      pooled_BH: the first token's output, through a tanh layer where the architecture has a pooler; float32.
      hidden_ABLH: outputs of the embeddings and of every block, `A + 1` of them; None unless asked for.
      scores_ABNLM: each block's scores before the softmax; None unless asked for.
    """

    sequence_BLH: tf.Tensor
    pooled_BH: tf.Tensor
    hidden_ABLH: tf.Tensor | None
    scores_ABNLM: tf.Tensor | None


class Looped(NamedTuple):
    """What comes out of all blocks: as `EncoderOutput`, and what was seen at each one's points of quantisation."""

    last_BLH: tf.Tensor
    hidden_ABLH: tf.Tensor | None
    scores_ABNLM: tf.Tensor | None
    seen_AP2: tf.Tensor | None


class MobileBertEncoder(tf.Module):
    """A MobileBERT encoder of any preset.

    Args:
      config: the architecture; `vocab_size` is a number by now.
      seed: the initial weights are a function of it and of each variable's name.
      dtype: of the activations, `float32` or `bfloat16`; variables are float32, and so is all of a quantised model, for
        bfloat16 has fewer steps than 8 bits need.
      pooled: whether anybody reads `pooled_BH`; if not, the pooler is kept as it is, neither trained nor decayed.
      weights: variables by name, in place of new ones.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        seed: int = 0,
        dtype: str = "float32",
        pooled: bool = True,
        weights: Mapping[str, tf.Variable] | None = None,
    ) -> None:
        super().__init__(name="encoder")
        self.config = config
        self.dtype = tf.float32 if _is_quantized(config) else tf.as_dtype(dtype)
        fixed = (QUANTIZERS,) if pooled else (QUANTIZERS, "pooler/")
        self.weights = (
            create_variables(encoder_variables(config), config, seed=seed, fixed=fixed)
            if weights is None
            else dict(weights)
        )

    def __call__(
        self,
        input_ids_BL: tf.Tensor,
        input_mask_BL: tf.Tensor,
        segment_ids_BL: tf.Tensor,
        *,
        seed: tf.Tensor | None = None,
        all_layers: bool = False,
    ) -> EncoderOutput:
        """Encodes a batch.

        Args:
          input_ids_BL: token ids.
          input_mask_BL: 1 for a token, 0 for padding.
          segment_ids_BL: 0 for the first text, 1 for the second.
          seed: int32 `[2]` for dropout; None switches dropout off.
          all_layers: whether to return every layer's output and scores too.
        """
        params, x_BLH, bias_B11M = self._prepared(input_ids_BL, input_mask_BL, segment_ids_BL, seed=seed)
        loop = _scan if self.config.layer_loop is LayerLoop.scan else _unroll
        stacked = _stacked(params)
        if _is_quantized(self.config):
            stacked = fake_quant.lowered(stacked, self.config)
        x_BLH, hidden_ABLH, scores_ABNLM, seen = loop(x_BLH, stacked, bias_B11M, self.config, seed, all_layers)
        fake_quant.note_blocks(seen, self.config)
        return EncoderOutput(
            tf.cast(x_BLH, tf.float32), tf.cast(self._pool(params, x_BLH), tf.float32), hidden_ABLH, scores_ABNLM
        )

    def at_layer(
        self,
        input_ids_BL: tf.Tensor,
        input_mask_BL: tf.Tensor,
        segment_ids_BL: tf.Tensor,
        *,
        layer: tf.Tensor,
        trains_below: bool = True,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Output `[B, L, H]` and scores `[B, N, L, M]` of one block, without dropout; those above it are not computed.

        Args:
          input_ids_BL, input_mask_BL, segment_ids_BL: a batch, as for the whole encoder.
          layer: which block, from 0; an int32 scalar, so that one graph serves all.
          trains_below: whether gradients reach what lies below that block; if not, only its own forward pass is kept.
        """
        assert not _is_quantized(self.config), "transfer is refused to it"
        params, x_BLH, bias_B11M = self._prepared(input_ids_BL, input_mask_BL, segment_ids_BL, seed=None)
        stacked = _stacked(params)
        run = _scan_below if self.config.layer_loop is LayerLoop.scan else _unroll_below
        x_BLH = run(x_BLH, stacked, bias_B11M, self.config, layer)
        x_BLH = x_BLH if trains_below else tf.stop_gradient(x_BLH)
        own = {name: tf.gather(value, layer) for name, value in stacked.items()}
        return block(x_BLH, own, bias_B11M, config=self.config, seed=None)

    def _prepared(
        self, input_ids_BL: tf.Tensor, input_mask_BL: tf.Tensor, segment_ids_BL: tf.Tensor, *, seed: tf.Tensor | None
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """Parameters in the dtype of the activations, what the first block reads, and what is added to scores."""
        params = {name: tf.cast(variable, self.dtype) for name, variable in self.weights.items()}
        x_BLH = self._embed(params, input_ids_BL, segment_ids_BL, seed)
        mask_value = tf.constant(self.config.attention_mask_value, self.dtype)
        return params, x_BLH, (1 - tf.cast(input_mask_BL, self.dtype))[:, None, None, :] * mask_value

    def _embed(
        self,
        params: Mapping[str, tf.Tensor],
        input_ids_BL: tf.Tensor,
        segment_ids_BL: tf.Tensor,
        seed: tf.Tensor | None,
    ) -> tf.Tensor:
        """Trigram word embeddings projected to H, plus token type and position (paper, section 3.2.2)."""
        if _is_quantized(self.config):
            x_BLH = fake_quant.embedded(params, input_ids_BL, segment_ids_BL, self.config)
            return dropout(x_BLH, rate=self.config.hidden_dropout, seed=fold(seed, EMBEDDING_DROPOUT))
        word_BLE = tf.gather(params["embeddings/word/table"], input_ids_BL)
        following = tf.pad(word_BLE[:, 1:], [[0, 0], [0, 1], [0, 0]])
        preceding = tf.pad(word_BLE[:, :-1], [[0, 0], [1, 0], [0, 0]])
        x_BLH = dense(tf.concat([following, word_BLE, preceding], axis=-1), params, "embeddings/projection")
        types = tf.one_hot(segment_ids_BL, self.config.type_vocab_size, dtype=self.dtype)
        x_BLH += tf.tensordot(types, params["embeddings/type/table"], axes=1)
        x_BLH += params["embeddings/position/table"][None, : tf.shape(input_ids_BL)[1]]
        x_BLH = normalize(x_BLH, params, "embeddings/norm", self.config)
        return dropout(x_BLH, rate=self.config.hidden_dropout, seed=fold(seed, EMBEDDING_DROPOUT))

    def _pool(self, params: Mapping[str, tf.Tensor], x_BLH: tf.Tensor) -> tf.Tensor:
        first_BH = x_BLH[:, 0]
        return tf.tanh(dense(first_BH, params, "pooler")) if self.config.classifier_activation else first_BH


def create_variables(
    specs: list[VariableSpec], config: ModelConfig, *, seed: int, fixed: tuple[str, ...] = ()
) -> dict[str, tf.Variable]:
    """Variables by name, each started by `initializers.initial_value`; what starts with `fixed` is not trained."""
    return {
        spec.name: tf.Variable(
            initial_value(spec, config, seed=seed),
            name=spec.name,
            trainable=not spec.name.startswith(fixed),
            aggregation=_aggregation(spec),
        )
        for spec in specs
    }


def _aggregation(spec: VariableSpec) -> tf.VariableAggregation:
    """Replicas agree on a range before they assign it."""
    kinds = tf.VariableAggregation
    return kinds.ONLY_FIRST_REPLICA if spec.name.startswith(QUANTIZERS) else kinds.NONE


def _is_quantized(config: ModelConfig) -> bool:
    return config.fake_quantization is not FakeQuantization.none


def _stacked(params: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """What the blocks have, by its name in a block; ranges as `quantizers/POINT`."""
    return {
        name.replace(STACKED, "", 1): value
        for name, value in params.items()
        if name.startswith((STACKED, QUANTIZERS + STACKED))
    }


def _layer(
    x_BLH: tf.Tensor,
    params: Mapping[str, tf.Tensor],
    bias_B11M: tf.Tensor,
    *,
    config: ModelConfig,
    seed: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """One block in float, or rounded; with what was seen at its points, where that is asked for."""
    if _is_quantized(config):
        return fake_quant.quantized_block(x_BLH, params, bias_B11M, config=config, seed=seed)
    return *block(x_BLH, params, bias_B11M, config=config, seed=seed), None


def _notes(config: ModelConfig) -> bool:
    return _is_quantized(config) and fake_quant.is_observed()


def _unroll(
    x_BLH: tf.Tensor,
    stacked: Mapping[str, tf.Tensor],
    bias_B11M: tf.Tensor,
    config: ModelConfig,
    seed: tf.Tensor | None,
    all_layers: bool,
) -> Looped:
    slices = {name: tf.unstack(value, num=config.num_layers) for name, value in stacked.items()}
    hidden, scores, seen = [x_BLH], [], []
    for layer in range(config.num_layers):
        params = {name: values[layer] for name, values in slices.items()}
        x_BLH, scores_BNLM, seen_P2 = _layer(x_BLH, params, bias_B11M, config=config, seed=fold(seed, layer))
        hidden.append(x_BLH)
        scores.append(scores_BNLM)
        seen.append(seen_P2)
    seen_AP2 = tf.stack(seen) if _notes(config) else None
    if not all_layers:
        return Looped(x_BLH, None, None, seen_AP2)
    return Looped(x_BLH, tf.stack(hidden), tf.stack(scores), seen_AP2)


def _scan(
    x_BLH: tf.Tensor,
    stacked: Mapping[str, tf.Tensor],
    bias_B11M: tf.Tensor,
    config: ModelConfig,
    seed: tf.Tensor | None,
    all_layers: bool,
) -> Looped:
    layers = config.num_layers
    slices = {name: LayerSlices(value) for name, value in stacked.items()}
    lists = tuple(slices[name].cut(value) for name, value in stacked.items())
    count = 2 * all_layers + _notes(config)
    kept = tuple(tf.TensorArray(x_BLH.dtype, size=layers) for _ in range(count))

    def body(
        layer: tf.Tensor, x: tf.Tensor, lists: tuple[tf.Tensor, ...], kept: tuple[tf.TensorArray, ...]
    ) -> tuple[tf.Tensor, tf.Tensor, tuple[tf.Tensor, ...], tuple[tf.TensorArray, ...]]:
        params = {name: part.read(handle, layer) for (name, part), handle in zip(slices.items(), lists, strict=True)}
        x, scores_BNLM, seen_P2 = _layer(x, params, bias_B11M, config=config, seed=fold(seed, layer))
        x = tf.ensure_shape(x, x_BLH.shape)
        found = ((x, scores_BNLM) if all_layers else ()) + ((seen_P2,) if _notes(config) else ())
        return layer + 1, x, lists, tuple(array.write(layer, value) for array, value in zip(kept, found, strict=True))

    _, last_BLH, lists, kept = tf.while_loop(
        lambda layer, *_: layer < layers, body, (tf.constant(0), x_BLH, lists, kept), maximum_iterations=layers
    )
    last_BLH = with_empty_gradients(last_BLH, lists, tuple(slices.values()))
    seen_AP2 = kept[-1].stack() if _notes(config) else None
    if not all_layers:
        return Looped(last_BLH, None, None, seen_AP2)
    return Looped(last_BLH, tf.concat([x_BLH[None], kept[0].stack()], axis=0), kept[1].stack(), seen_AP2)


def _unroll_below(
    x_BLH: tf.Tensor, stacked: Mapping[str, tf.Tensor], bias_B11M: tf.Tensor, config: ModelConfig, layer: tf.Tensor
) -> tf.Tensor:
    """What block `layer` reads; each block below stands in the graph once, and runs or not."""
    slices = {name: tf.unstack(value, num=config.num_layers) for name, value in stacked.items()}

    def after(x: tf.Tensor, below: int) -> tf.Tensor:
        params = {name: values[below] for name, values in slices.items()}
        return block(x, params, bias_B11M, config=config, seed=None)[0]

    for below in range(config.num_layers - 1):
        x_BLH = tf.cond(below < layer, functools.partial(after, x_BLH, below), functools.partial(tf.identity, x_BLH))
    return x_BLH


def _scan_below(
    x_BLH: tf.Tensor, stacked: Mapping[str, tf.Tensor], bias_B11M: tf.Tensor, config: ModelConfig, layer: tf.Tensor
) -> tf.Tensor:
    """What block `layer` reads."""
    slices = {name: LayerSlices(value) for name, value in stacked.items()}
    lists = tuple(slices[name].cut(value) for name, value in stacked.items())

    def body(
        below: tf.Tensor, x: tf.Tensor, lists: tuple[tf.Tensor, ...]
    ) -> tuple[tf.Tensor, tf.Tensor, tuple[tf.Tensor, ...]]:
        params = {name: part.read(handle, below) for (name, part), handle in zip(slices.items(), lists, strict=True)}
        x, _ = block(x, params, bias_B11M, config=config, seed=None)
        return below + 1, tf.ensure_shape(x, x_BLH.shape), lists

    _, last_BLH, lists = tf.while_loop(
        lambda below, *_: below < layer, body, (tf.constant(0), x_BLH, lists), maximum_iterations=config.num_layers
    )
    return with_empty_gradients(last_BLH, lists, tuple(slices.values()))
