"""Files for devices compute as the model: all architectures and heads in float32, and in 8 bits within their steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from mobilebert_exp import compose
from mobilebert_exp.config import FakeQuantization, ModelConfig
from mobilebert_exp.deployment import Answer, ExportFormat
from mobilebert_exp.errors import ExportError
from mobilebert_exp.lite import calibration, census, scales
from mobilebert_exp.lite.lowering import Lowering
from mobilebert_exp.lite.write import tflite
from mobilebert_exp.modeling import quantizers
from mobilebert_exp.modeling.heads import ClassifierModel, SpanModel
from mobilebert_exp.modeling.variables import QUANTIZERS

LENGTH = 16
SMALL = [
    "model.vocab_size=97", "model.num_layers=2", "model.hidden_size=48", "model.intra_bottleneck_size=32",
    "model.embedding_size=24", "model.intermediate_size=40",
]  # fmt: skip
ARCHITECTURES = {
    "opt": ["model=opt"],
    "qat": ["model=qat", "model.fake_quantization=none"],
    "base": ["model=base"],
    "teacher": ["model=teacher"],
    "exact": ["model=base", "model.hidden_act=gelu_exact", "model.hugging_face_norms=true"],
    "pooled": ["model=opt", "model.classifier_activation=true", "model.key_query_shared_bottleneck=false"],
    "narrow": ["model=tiny", "model.use_bottleneck_attention=true"],
}
Row = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model of random weights and what it answers to `ROWS`."""

    model: ModelConfig
    head: Answer
    module: Any
    values: dict[str, np.ndarray]
    answers: list[dict[str, np.ndarray]]

    def file(self, format: str, **settings: Any) -> bytes:
        settings = {"calibration_rows": ROWS, **settings}
        return tflite(
            self.values,
            model=self.model,
            head=self.head,
            format=ExportFormat[f"tflite_{format}"],
            length=LENGTH,
            **settings,
        )

    @property
    def largest(self) -> float:
        return float(max(np.max(np.abs(value)) for found in self.answers for value in found.values()))

    def gap(self, content: bytes, *, plain: bool = False) -> float:
        """The largest difference between the model's answers and the file's, padding apart."""
        gaps = []
        for given, wanted in zip(ROWS, self.answers, strict=True):
            found = answers(content, given, plain=plain)
            assert set(wanted) == set(found)
            used = int(given["input_mask"].sum()) if self.head is Answer.span else None
            gaps += [np.max(np.abs(wanted[name][:, :used] - found[name][:, :used])) for name in wanted]
        return float(max(gaps))


def small(name: str) -> ModelConfig:
    heads = 4 if name != "narrow" else 2
    return compose([*ARCHITECTURES[name], *SMALL, f"model.num_heads={heads}"]).model


@functools.cache
def case(name: str, head: Answer) -> Case:
    model = small(name)
    module, values = built(model, head)
    return Case(model, head, module, values, [expected(module, given, head) for given in ROWS])


def built(model: ModelConfig, head: Answer) -> tuple[tf.Module, dict[str, np.ndarray]]:
    """A model of random weights, norms too, and its values by name."""
    if head is Answer.span:
        module: Any = SpanModel(model, seed=1, dtype="float32")
    else:
        outputs = 1 if head is Answer.score else 3
        module = ClassifierModel(model, num_outputs=outputs, dropout_rate=0.0, seed=1, dtype="float32")
    rng, values = np.random.default_rng(2), {}
    for name, variable in {**module.encoder.weights, **module.weights}.items():
        width = variable.shape[-2] if name.endswith("kernel") else 1
        drawn = rng.standard_normal(variable.shape) / np.sqrt(width) * (1 if name.endswith("kernel") else 0.3)
        values[name] = (drawn + name.endswith("gamma")).astype(np.float32)
        variable.assign(values[name])
    return module, values


def row(seed: int, *, length: int = LENGTH, used: int = LENGTH) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < used)[None].astype(np.int32)
    ids = rng.integers(1, 97, (1, length)).astype(np.int32) * mask
    types = (np.arange(length) > 5)[None].astype(np.int32) * mask
    return {"input_ids": ids, "input_mask": mask, "segment_ids": types}


ROWS = [row(seed, used=used) for seed, used in enumerate((LENGTH, LENGTH, 11, 7, LENGTH))]


def expected(module: Any, given: Row, head: Answer) -> dict[str, np.ndarray]:
    found = module(*(tf.constant(given[name]) for name in ("input_ids", "input_mask", "segment_ids")))
    if head is Answer.span:
        return {"start_logits": found[0].numpy(), "end_logits": found[1].numpy()}
    return {"scores": found.numpy()} if head is Answer.score else {"probabilities": tf.nn.softmax(found).numpy()}


def answers(content: bytes, given: Row, *, plain: bool = False) -> dict[str, np.ndarray]:
    """By the interpreter, with XNNPACK or with the plain kernels; 8-bit results as real numbers."""
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if plain else OpResolverType.AUTO
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    runner = interpreter.get_signature_runner("serving_default")
    details, found = runner.get_output_details(), runner(**given)
    real = {}
    for name, value in found.items():
        scale, zero = details[name]["quantization"]
        real[name] = (value.astype(np.float32) - zero) * scale if value.dtype == np.int8 else value
    return real


def dtypes(content: bytes) -> set[str]:
    """Of every tensor in the file."""
    names = {number: name for name, number in vars(schema.TensorType).items() if name.isupper()}
    graph = schema.ModelT.InitFromPackedBuf(content).subgraphs[0]
    return {names[tensor.type] for tensor in graph.tensors}


@pytest.mark.parametrize(
    ("name", "head"),
    [
        *((name, Answer.span) for name in ARCHITECTURES),
        *((name, head) for name in ("opt", "pooled") for head in (Answer.classes, Answer.score)),
    ],
)
def test_float_is_the_model(name: str, head: Answer) -> None:
    content = case(name, head).file("float")
    assert case(name, head).gap(content) < 2e-5
    assert dtypes(content) == {"FLOAT32", "INT32"}


@pytest.mark.parametrize("name", ["opt", "base"])
def test_rows_may_be_of_any_length(name: str) -> None:
    chosen = case(name, Answer.span)
    interpreter = Interpreter(model_content=chosen.file("float", dynamic_length=True))
    for length in (LENGTH, 3, 9):
        given = row(7, length=length, used=length - 1)
        for detail in interpreter.get_input_details():
            interpreter.resize_tensor_input(detail["index"], (1, length), strict=True)
        interpreter.allocate_tensors()
        found = interpreter.get_signature_runner("serving_default")(**given)
        for key, value in expected(chosen.module, given, Answer.span).items():
            np.testing.assert_allclose(found[key], value, atol=2e-5)


# Random weights hide nothing of what rounding does. The bounds are shares of the largest answer, twice what was seen.
@pytest.mark.parametrize(
    ("format", "bound", "kinds"),
    [
        ("float16", 0.005, {"FLOAT32", "FLOAT16", "INT32"}),
        ("dynamic", 0.15, {"FLOAT32", "INT8", "INT32"}),
        ("int8", 0.2, {"FLOAT32", "INT8", "INT32"}),
        ("int8_strict", 0.35, {"INT8", "INT32"}),
    ],
)
@pytest.mark.parametrize("head", [Answer.span, Answer.score])
@pytest.mark.parametrize("plain", [False, True])
def test_fewer_bits_are_near(format: str, bound: float, kinds: set[str], head: Answer, plain: bool) -> None:
    chosen = case("opt", head)
    content = chosen.file(format)
    assert dtypes(content) == kinds
    assert 0 < chosen.gap(content, plain=plain) / chosen.largest < bound
    varied = np.ptp([found[name] for found in chosen.answers for name in found], axis=0).max()
    assert varied > bound * chosen.largest, "or an answer that is always the same would do"


@pytest.mark.parametrize(("name", "head"), [("base", Answer.span), ("pooled", Answer.score), ("narrow", Answer.span)])
def test_other_architectures_have_an_8_bit_form(name: str, head: Answer) -> None:
    chosen = case(name, head)
    content = chosen.file("int8")
    assert "INT8" in dtypes(content)
    assert chosen.gap(content) / chosen.largest < 0.25


@pytest.mark.parametrize("kind", [FakeQuantization.per_tensor, FakeQuantization.per_channel])
def test_what_was_trained_is_what_the_file_computes(kind: FakeQuantization) -> None:
    """With ranges of its own at each point; they differ no more than two interpreters of one file do."""
    model = dataclasses.replace(small("qat"), fake_quantization=kind)
    module, values = built(model, Answer.span)
    rng = np.random.default_rng(5)
    measured = calibration.measured(
        Lowering(
            values,
            model=model,
            head=Answer.span,
            mask_values=(-1e4, -1e4),
            length=LENGTH,
            dynamic_length=False,
        ).graph(),
        {graph_name(name, layer) for name in module.encoder.weights if name.startswith(QUANTIZERS) for layer in (0, 1)},
        ROWS,
        length=LENGTH,
        threads=1,
    )
    for name, variable in module.encoder.weights.items():
        if name.startswith(QUANTIZERS):
            wide = np.array([measured[graph_name(name, layer)] for layer in (0, 1)], np.float32)
            wide = (wide if variable.shape.rank == 2 else wide[0]) * rng.uniform(0.8, 1.2)
            variable.assign(wide)
            values[name] = variable.numpy()
    weights = {name: value for name, value in values.items() if not name.startswith(QUANTIZERS)}
    content = tflite(
        weights,
        model=model,
        head=Answer.span,
        format=ExportFormat.tflite_int8,
        length=LENGTH,
        ranges=quantizers.ranges(values),
    )
    trained = [expected(module, given, Answer.span) for given in ROWS]
    by_xnnpack, by_kernels = ([answers(content, given, plain=plain) for given in ROWS] for plain in (False, True))
    between_interpreters = mean_gap(by_xnnpack, by_kernels)
    assert 0 < mean_gap(trained, by_xnnpack) < 1.5 * between_interpreters, "which round some products differently"
    assert between_interpreters < 0.05 * max(np.max(np.abs(value)) for found in trained for value in found.values())


def mean_gap(ours: list[dict[str, np.ndarray]], theirs: list[dict[str, np.ndarray]]) -> float:
    gaps = [np.abs(a[name] - b[name]) for a, b in zip(ours, theirs, strict=True) for name in a]
    return float(np.mean(gaps))


def graph_name(name: str, layer: int) -> str:
    """A range's name as the result's in the graph."""
    return name.removeprefix(QUANTIZERS).replace("layers/", f"layers/{layer}/")


@pytest.mark.parametrize("format", ["int8", "int8_strict"])
@pytest.mark.parametrize("plain", [False, True])
def test_units_that_are_dead_harm_nothing(format: str, plain: bool) -> None:
    chosen = case("opt", Answer.span)
    values = {name: value.copy() for name, value in chosen.values.items()}
    values["layers/ffn_0/intermediate/kernel"][1] = 0
    values["layers/ffn_0/intermediate/bias"][1] = -1
    values["layers/ffn_1/norm/gamma"][0] = 0
    values["layers/ffn_1/norm/beta"][0] = 0
    module = chosen.module.__class__(chosen.model, seed=1, dtype="float32")
    for name, variable in {**module.encoder.weights, **module.weights}.items():
        variable.assign(values[name])
    dead = Case(chosen.model, chosen.head, module, values, [expected(module, given, chosen.head) for given in ROWS])
    assert dead.gap(dead.file(format), plain=plain) / dead.largest < 0.35


def test_a_strict_file_computes_nothing_in_float(tmp_path: Path) -> None:
    for format, is_float in (("int8_strict", False), ("int8", True)):
        (tmp_path / format).write_bytes(case("opt", Answer.classes).file(format))
        assert bool(census.float_ops(tmp_path / format)) is is_float


def test_what_16_bits_cannot_hold_is_refused() -> None:
    chosen = case("opt", Answer.span)
    grown = {**chosen.values, "heads/span/kernel": chosen.values["heads/span/kernel"] + np.float32(7e4)}
    with pytest.raises(ExportError, match="exceeds what 16 bits hold"):
        dataclasses.replace(chosen, values=grown).file("float16")


def test_what_has_no_8_bit_form_is_refused_by_name() -> None:
    with pytest.raises(ExportError, match=r"embeddings/norm/mean \(MEAN\) has no 8-bit form"):
        case("base", Answer.span).file("int8_strict")


def test_weights_that_are_no_numbers_are_refused() -> None:
    chosen = case("opt", Answer.span)
    spoilt = {**chosen.values, "heads/span/bias": np.array([0, np.nan], np.float32)}
    with pytest.raises(ExportError, match="heads/span/bias holds numbers that are not finite"):
        dataclasses.replace(chosen, values=spoilt).file("float")


def test_a_model_that_has_diverged_is_refused() -> None:
    chosen = case("opt", Answer.span)
    grown = {name: value * np.float32(1e4 if name.endswith("kernel") else 1) for name, value in chosen.values.items()}
    with pytest.raises(ExportError, match=r"reaches from .* which 8 bits cannot tell apart"):
        dataclasses.replace(chosen, values=grown).file("int8")


def test_ranges_come_from_rows_or_from_training() -> None:
    chosen, point = case("opt", Answer.span), "layers/ffn_0/norm"
    with pytest.raises(ExportError, match=r"the range of .* is not known; export with calibration examples"):
        chosen.file("int8", calibration_rows=())
    given = {point: np.array([[-1, 3], [-2, 2]], np.float32)}
    content = chosen.file("int8", ranges=given)
    tensors = schema.ModelT.InitFromPackedBuf(content).subgraphs[0].tensors
    named = {tensor.name.decode(): tensor for tensor in tensors}
    for layer, (low, high) in enumerate(given[point]):
        scale = named[f"layers/{layer}/ffn_0/norm"].quantization
        assert scale.scale[0] == pytest.approx((high - low) / 255)
        assert scale.zeroPoint[0] == round(-128 - low / scale.scale[0])


def test_a_mask_of_training_leaves_strict_attention_no_steps() -> None:
    chosen = case("opt", Answer.span)
    gaps = {mask: chosen.gap(chosen.file("int8_strict", mask_value=mask)) for mask in (None, -10000.0)}
    assert gaps[-10000.0] > 1.5 * gaps[None]


def test_scores_that_reach_far_in_one_layer_leave_the_others_their_steps() -> None:
    """A mask below the scores of all layers would be a thousand steps of another layer's."""
    chosen = case("opt", Answer.span)
    values = {name: value.copy() for name, value in chosen.values.items()}
    for name in ("layers/attention/query/kernel", "layers/attention/key/kernel"):
        values[name][1] *= 40
    content = dataclasses.replace(chosen, values=values).file("int8_strict")
    tensors = schema.ModelT.InitFromPackedBuf(content).subgraphs[0].tensors
    steps = {tensor.name.decode(): tensor.quantization.scale for tensor in tensors if tensor.quantization}
    scores, masked = (
        [steps[f"layers/{layer}/attention/{name}"][0] for layer in (0, 1)] for name in ("scores", "masked")
    )
    assert scores[1] > 100 * scores[0]
    for score, sum_of_both in zip(scores, masked, strict=True):
        assert score <= sum_of_both <= score + 8 / 255 * 1.01


def test_the_same_weights_give_the_same_bytes() -> None:
    (content,) = {case("opt", Answer.span).file("int8", metadata={"NOTE": b"carried"}) for _ in range(2)}
    assert b"carried" in content


@pytest.mark.parametrize("seed", range(20))
def test_scales_are_those_of_training(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.standard_normal(2) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)
    low, high = min(low, np.float32(0)), max(high, np.float32(0))
    values = rng.uniform(low - 1, high + 1, 1000).astype(np.float32)
    theirs = tf.quantization.fake_quant_with_min_max_vars(values, low, high).numpy()
    scale = scales.of_range(low, high)
    ours = (scale.stored(values).astype(np.float32) - scale.zero) * scale.scale
    apart = np.abs(ours - theirs) > 1e-3 * scale.scale
    assert apart.mean() < 0.005, "but for what lies between two steps"


def test_nothing_but_zeros_has_a_scale() -> None:
    weight = np.zeros((3, 4), np.float32)
    scale = scales.of_weight(weight, per_channel=True, bias=np.array([0, 1, -5], np.float32), input_scale=0.01)
    assert np.all(scale.stored(weight) == 0)
    assert np.all(np.abs(np.array([0, 1, 5]) / (scale.scale * 0.01)) < 2**31)
    flat = scales.of_range(0, 0)
    assert flat.scale[0] > 0 and flat.stored(np.zeros(2, np.float32)).tolist() == [flat.zero] * 2
