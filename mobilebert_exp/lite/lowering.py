"""A MobileBERT with its head as a graph for devices.

NoNorm is multiplied into what comes before it: `gamma * (x @ K + b + r) + beta` becomes
`x @ (K * gamma) + (b * gamma + beta)`, plus `r * gamma`. So is the factor of the queries. Names of results are those of
the points of quantisation-aware training (`modeling.fake_quant`), with the number of the layer: `layers/3/ffn_0/norm`.

Shapes: T tokens, H hidden size, I intra-bottleneck size, E embedding size, N heads, D head size, M keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mobilebert_exp.architecture import Activation, ModelConfig, Normalization
from mobilebert_exp.deployment import INPUTS, Answer
from mobilebert_exp.lite.graph import TOKENS, Graph, Op, Role, Scalar, Shape, Stage, Value, constant, integers, shape_of
from mobilebert_exp.modeling.variables import STACKED, shares_query_key

FUSED = {Activation.relu: "RELU", Activation.relu6: "RELU6"}


@dataclass(frozen=True, slots=True)
class _Dense:
    """A matrix product's kernel `[in, out]` and bias, with what is folded into them."""

    kernel: np.ndarray
    bias: np.ndarray

    def scaled(self, factor: np.ndarray | float, shift: np.ndarray | float = 0.0) -> _Dense:
        return _Dense(self.kernel * factor, self.bias * factor + shift)


class Lowering:
    """Builds the graph of one model.

    Args:
      values: its variables by name; stacked ones hold all layers.
      model: its architecture.
      head: what of `values` answers.
      mask_values: what is added to the scores of padding in each layer.
      dynamic_length: whether rows may be of several lengths.
    """

    def __init__(
        self,
        values: Mapping[str, np.ndarray],
        *,
        model: ModelConfig,
        head: Answer,
        mask_values: Sequence[float],
        length: int,
        dynamic_length: bool,
    ) -> None:
        self._values, self._model, self._head = values, model, head
        self._mask_values, self._length, self._is_dynamic = mask_values, length, dynamic_length
        self._folds = model.normalization is Normalization.no_norm
        self._graph = Graph()

    def graph(self) -> Graph:
        """The whole model."""
        ids, mask, types = (self._row(name) for name in INPUTS)
        x_TH = self._embed(ids, types)
        masks = {value: self._mask(mask, value) for value in dict.fromkeys(self._mask_values)}
        for layer, value in enumerate(self._mask_values):
            x_TH = self._block(x_TH, masks[value], layer)
        self._answer(x_TH)
        return self._graph

    def _add(self, op: Op, inputs: list[Value], name: str, shape: Shape, stage: Stage, **options: Scalar) -> Value:
        return self._graph.add(op, inputs, name=name, shape=shape, stage=stage, **options)

    def _of(self, name: str, layer: int | None) -> np.ndarray:
        value = self._values[name if layer is None else f"{STACKED}{name}"]
        return np.asarray(value if layer is None else value[layer], np.float32)

    def _pair(self, name: str, layer: int | None = None) -> _Dense:
        return _Dense(self._of(f"{name}/kernel", layer), self._of(f"{name}/bias", layer))

    def _norm_of(self, name: str, layer: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        return self._of(f"{name}/gamma", layer), self._of(f"{name}/beta", layer)

    # Rows of integers

    def _row(self, name: str) -> Value:
        given = self._graph.input(name)
        shape = shape_of(f"{name}/shape", (TOKENS,))
        return self._add(Op.reshape, [given, shape], f"{name}/row", (TOKENS,), Stage.row)

    def _positions(self, ids: Value) -> Value:
        """0, 1, 2, … as long as the row."""
        zero, one = (constant(f"position/{name}", np.array(k), role=Role.integers) for name, k in (("0", 0), ("1", 1)))
        zeros = self._add(Op.mul, [ids, zero], "position/zeros", (TOKENS,), Stage.row)
        ones = self._add(Op.add, [zeros, one], "position/ones", (TOKENS,), Stage.row)
        axis = constant("position/axis", np.array(0), role=Role.integers)
        return self._add(Op.cumsum, [ones, axis], "position/numbers", (TOKENS,), Stage.row, exclusive=True)

    def _mask(self, mask: Value, value: float) -> Value:
        """What is added to scores, `[1, 1, M]`; a table of two instead of arithmetic needs no float."""
        at = f"mask{value:g}"
        table = constant(f"{at}/table", np.array([value, 0.0], np.float32), role=Role.table)
        row = self._add(Op.gather, [table, mask], f"{at}/row", (TOKENS,), Stage.core, axis=0)
        shape = shape_of(f"{at}/shape", (1, 1, TOKENS))
        return self._add(Op.reshape, [row, shape], at, (1, 1, TOKENS), Stage.core)

    # Embeddings

    def _embed(self, ids: Value, types: Value) -> Value:
        trigram = self._trigram(ids)
        dense = self._pair("embeddings/projection")
        gamma, beta = self._norm_of("embeddings/norm") if self._folds else (1.0, 0.0)
        projected = self._dense(trigram, dense.scaled(gamma), "embeddings/projection")
        place = self._place(ids, types, gamma, beta)
        width = self._model.hidden_size
        name = "embeddings/norm" if self._folds else "embeddings/sum"
        total = self._add(Op.add, [projected, place], name, (TOKENS, width), Stage.dense)
        return total if self._folds else self._layer_norm(total, "embeddings/norm", None)

    def _trigram(self, ids: Value) -> Value:
        """The next word's embedding, the word's own, the one before: `[T, 3 * E]`."""
        width = self._model.embedding_size
        table = constant("embeddings/word/table", self._of("embeddings/word/table", None), role=Role.table)
        word = self._add(Op.gather, [table, ids], "embeddings/word", (TOKENS, width), Stage.dense, axis=0)
        nothing = constant("embeddings/nothing", np.zeros((1, width), np.float32), role=Role.vector)
        later = self._slice(word, "embeddings/later", (1, 0), (0, width), end_mask=1)
        earlier = self._slice(word, "embeddings/earlier", (0, 0), (-1, width), begin_mask=1)
        following, preceding = (
            self._add(Op.concatenation, parts, name, (TOKENS, width), Stage.dense, axis=0)
            for name, parts in (("embeddings/next", [later, nothing]), ("embeddings/previous", [nothing, earlier]))
        )
        parts = [following, word, preceding]
        return self._add(Op.concatenation, parts, "embeddings/trigram", (TOKENS, 3 * width), Stage.dense, axis=1)

    def _slice(
        self,
        x: Value,
        name: str,
        begin: tuple[int, int],
        end: tuple[int, int],
        *,
        begin_mask: int = 0,
        end_mask: int = 0,
    ) -> Value:
        """All rows but the first or the last."""
        limits = [integers(f"{name}/{part}", at) for part, at in (("begin", begin), ("end", end), ("strides", (1, 1)))]
        shape = (TOKENS - 1, end[1])
        return self._add(
            Op.strided_slice, [x, *limits], name, shape, Stage.dense, begin_mask=begin_mask, end_mask=end_mask
        )

    def _place(self, ids: Value, types: Value, gamma: np.ndarray | float, beta: np.ndarray | float) -> Value:
        """`(type + position) * gamma + beta`."""
        width = self._model.hidden_size
        table = constant("embeddings/type/table", self._of("embeddings/type/table", None) * gamma, role=Role.table)
        kind = self._add(Op.gather, [table, types], "embeddings/type", (TOKENS, width), Stage.place, axis=0)
        numbers = (self._of("embeddings/position/table", None) * gamma + beta).astype(np.float32)
        if self._is_dynamic:
            table = constant("embeddings/position/table", numbers[: self._length], role=Role.table)
            row = self._positions(ids)
            position = self._add(Op.gather, [table, row], "embeddings/position", (TOKENS, width), Stage.place, axis=0)
        else:
            position = constant("embeddings/position", numbers[: self._length], role=Role.vector)
        return self._add(Op.add, [kind, position], "embeddings/place", (TOKENS, width), Stage.place)

    # Blocks

    def _dense(
        self, x: Value, dense: _Dense, name: str, *, stage: Stage = Stage.dense, activation: str = "NONE"
    ) -> Value:
        weight = constant(f"{name}/kernel", dense.kernel.T, role=Role.weight)
        bias = constant(f"{name}/bias", np.broadcast_to(dense.bias, weight.shape[:1]), role=Role.bias)
        shape = (*x.shape[:-1], weight.shape[0])
        return self._add(Op.fully_connected, [x, weight, bias], name, shape, stage, activation=activation)

    def _bottleneck(self, x_TH: Value, name: str, layer: int) -> Value:
        at, dense = f"layers/{layer}/{name}", self._pair(name, layer)
        if self._folds:
            gamma, beta = self._norm_of(f"{name}/norm", layer)
            return self._dense(x_TH, dense.scaled(gamma, beta), at)
        return self._layer_norm(self._dense(x_TH, dense, at), f"{name}/norm", layer)

    def _projections(self, x_TH: Value, layer: int) -> tuple[Value, Value, Value, Value]:
        """The block's narrow input, then queries, keys and values, each `[T, I]`."""
        model = self._model
        input_TI = self._bottleneck(x_TH, "bottleneck_input", layer)
        query_source = key_source = value_source = x_TH
        if model.use_bottleneck_attention:
            query_source = key_source = value_source = input_TI
        elif shares_query_key(model):
            query_source = key_source = self._bottleneck(x_TH, "bottleneck_query_key", layer)
        found = [
            self._dense(
                source, self._pair(f"attention/{part}", layer).scaled(factor), f"layers/{layer}/attention/{part}"
            )
            for part, source, factor in (
                ("query", query_source, 1 / math.sqrt(model.head_size)),
                ("key", key_source, 1.0),
                ("value", value_source, 1.0),
            )
        ]
        return input_TI, found[0], found[1], found[2]

    def _heads(self, x_TI: Value) -> Value:
        """`[T, I]` to `[N, T, D]`."""
        heads, size = self._model.num_heads, self._model.head_size
        shape = shape_of(f"{x_TI.name}/shape", (TOKENS, heads, size))
        cut = self._add(Op.reshape, [x_TI, shape], f"{x_TI.name}/cut", (TOKENS, heads, size), Stage.dense)
        order = integers(f"{x_TI.name}/order", [1, 0, 2])
        return self._add(Op.transpose, [cut, order], f"{x_TI.name}/heads", (heads, TOKENS, size), Stage.dense)

    def _attend(self, query: Value, key: Value, value: Value, masks: Value, layer: int) -> Value:
        """Context `[T, I]`."""
        at, heads, size = f"layers/{layer}/attention", self._model.num_heads, self._model.head_size
        query_NTD, key_NMD, value_NMD = (self._heads(x) for x in (query, key, value))
        square, core = (heads, TOKENS, TOKENS), Stage.core
        scores = self._add(Op.batch_matmul, [query_NTD, key_NMD], f"{at}/scores", square, core, adj_y=True)
        masked = self._add(Op.add, [scores, masks], f"{at}/masked", square, core)
        shares = self._add(Op.softmax, [masked], f"{at}/probabilities", square, core, beta=1.0)
        found = self._add(Op.batch_matmul, [shares, value_NMD], f"{at}/context/heads", (heads, TOKENS, size), core)
        order = integers(f"{at}/context/order", [1, 0, 2])
        joined = self._add(Op.transpose, [found, order], f"{at}/context/rows", (TOKENS, heads, size), core)
        shape = shape_of(f"{at}/context/shape", (TOKENS, heads * size))
        return self._add(Op.reshape, [joined, shape], f"{at}/context", (TOKENS, heads * size), core)

    def _block(self, x_TH: Value, masks: Value, layer: int) -> Value:
        input_TI, query_TI, key_TI, value_TI = self._projections(x_TH, layer)
        context_TI = self._attend(query_TI, key_TI, value_TI, masks, layer)
        h_TI = self._normalized_sum(context_TI, input_TI, "attention/output", "attention", layer)
        activation = self._model.hidden_act
        for k in range(self._model.num_feedforward_networks):
            name = f"layers/{layer}/ffn_{k}/intermediate"
            inner = self._pair(f"ffn_{k}/intermediate", layer)
            wide = self._dense(h_TI, inner, name, activation=FUSED.get(activation, "NONE"))
            if activation not in FUSED:
                exact = activation is Activation.gelu_exact
                wide = self._add(Op.gelu, [wide], f"{name}/gelu", wide.shape, Stage.norm, approximate=not exact)
            h_TI = self._normalized_sum(wide, h_TI, f"ffn_{k}/output", f"ffn_{k}", layer)
        return self._normalized_sum(h_TI, x_TH, "bottleneck_output", "bottleneck_output", layer)

    def _normalized_sum(self, x: Value, residual: Value, name: str, group: str, layer: int) -> Value:
        """`norm(dense(x) + residual)`."""
        at, dense, norm = f"layers/{layer}/{group}", self._pair(name, layer), f"{group}/norm"
        if not self._folds:
            found = self._dense(x, dense, f"layers/{layer}/{name}")
            total = self._add(Op.add, [found, residual], f"{at}/sum", residual.shape, Stage.dense)
            return self._layer_norm(total, norm, layer)
        gamma, beta = self._norm_of(norm, layer)
        found = self._dense(x, dense.scaled(gamma, beta), f"layers/{layer}/{name}")
        factor = constant(f"{at}/residual/gamma", gamma, role=Role.vector)
        kept = self._add(Op.mul, [residual, factor], f"{at}/residual", residual.shape, Stage.dense)
        return self._add(Op.add, [found, kept], f"{at}/norm", residual.shape, Stage.dense)

    def _layer_norm(self, x: Value, norm: str, layer: int | None) -> Value:
        at = norm if layer is None else f"layers/{layer}/{norm}"
        narrow = (*x.shape[:-1], 1)
        axis = integers(f"{at}/axis", [1])

        def step(op: Op, inputs: list[Value], name: str, shape: Shape, **options: Scalar) -> Value:
            return self._add(op, inputs, f"{at}/{name}" if name else at, shape, Stage.norm, **options)

        def vector(name: str, data: np.ndarray) -> Value:
            return constant(f"{at}/{name}", data, role=Role.vector)

        mean = step(Op.mean, [x, axis], "mean", narrow, keep_dims=True)
        squares = step(Op.squared_difference, [x, mean], "squares", x.shape)
        variance = step(Op.mean, [squares, axis], "variance", narrow, keep_dims=True)
        epsilon = vector("epsilon", np.array([self._model.epsilon_of(norm)]))
        summed = step(Op.add, [variance, epsilon], "variance_epsilon", narrow)
        inverse = step(Op.rsqrt, [summed], "inverse", narrow)
        centred = step(Op.sub, [x, mean], "centred", x.shape)
        scaled = step(Op.mul, [centred, inverse], "standardised", x.shape)
        gamma, beta = self._norm_of(norm, layer)
        stretched = step(Op.mul, [scaled, vector("gamma", gamma)], "stretched", x.shape)
        return step(Op.add, [stretched, vector("beta", beta)], "", x.shape)

    # Heads

    def _answer(self, x_TH: Value) -> None:
        if self._head is Answer.span:
            head = self._pair("heads/span")
            for column, name in enumerate(("start_logits", "end_logits")):
                part = _Dense(head.kernel[:, column : column + 1], head.bias[column : column + 1])
                logits = self._dense(x_TH, part, f"heads/{name}", stage=Stage.head)
                shape = shape_of(f"{name}/shape", (1, TOKENS))
                self._graph.outputs[name] = self._add(Op.reshape, [logits, shape], name, (1, TOKENS), Stage.head)
            return
        first = self._first(x_TH)
        if self._model.classifier_activation:
            pooled = self._dense(first, self._pair("pooler"), "pooler", stage=Stage.head)
            first = self._add(Op.tanh, [pooled], "pooler/tanh", pooled.shape, Stage.head)
        logits = self._dense(first, self._pair("heads/classifier"), "logits", stage=Stage.head)
        if self._head is Answer.score:
            self._graph.outputs["scores"] = logits
            return
        shares = self._add(Op.softmax, [logits], "probabilities", logits.shape, Stage.head, beta=1.0)
        self._graph.outputs["probabilities"] = shares

    def _first(self, x_TH: Value) -> Value:
        """The first token's vector, `[1, H]`."""
        width = self._model.hidden_size
        parts = (("begin", (0, 0)), ("end", (1, width)), ("strides", (1, 1)))
        limits = [integers(f"first/{name}", at) for name, at in parts]
        return self._add(Op.strided_slice, [x_TH, *limits], "first", (1, width), Stage.head, begin_mask=0, end_mask=0)
