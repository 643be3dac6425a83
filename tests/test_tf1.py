"""Checkpoints of TensorFlow 1, with the original names, written by its own Saver: each gives its right outcome."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf1_files

from mobilebert_exp import location
from mobilebert_exp.config import ModelConfig, leaves
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.modeling.checkpoints import formats, prefixes, tf1
from mobilebert_exp.modeling.checkpoints.account import Account, Demand, account
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.variables import encoder_variables, pretraining_variables, span_variables
from mobilebert_exp.original_json import architecture, original

LAYER = "bert/encoder/layer_1"
QUERY = f"{LAYER}/attention/self/query"


@pytest.fixture(scope="module")
def opt() -> ModelConfig:
    return tf1_files.narrow("opt")


@pytest.fixture(scope="module")
def tensors(opt: ModelConfig) -> dict[str, np.ndarray]:
    return tf1_files.drawn(tf1_files.names(opt))


def settled(weights: Weights, model: ModelConfig, demand: Demand = Demand.encoder) -> Account:
    """The account of pre-training."""
    wanted = [*encoder_variables(model), *pretraining_variables(model)]
    return account(weights, wanted=wanted, model=model, head="", demand=demand, source="init.checkpoint=X")


@pytest.mark.parametrize("name", tf1_files.PRESETS)
def test_every_variable_of_the_original_is_loaded(name: str, tmp_path: Path) -> None:
    model = tf1_files.narrow(name)
    written = tf1_files.drawn(tf1_files.names(model))
    prefix = tf1_files.save(tmp_path / "mobilebert.ckpt", written)
    assert formats.recognised(str(prefix)) == "tf1"
    weights = tf1.read(prefix)
    found = settled(weights, model, Demand.whole)
    assert set(found.loaded) == {spec.name for spec in (*encoder_variables(model), *pretraining_variables(model))}
    assert (found.initialised, found.ignored, weights.faults) == ((), (), {})
    assert sum(value.size for value in weights.values.values()) == sum(value.size for value in written.values())
    last = model.num_feedforward_networks - 1
    for ours, theirs in {
        f"layers/ffn_{last}/intermediate/kernel": f"{LAYER}/intermediate/dense/kernel",
        "layers/attention/query/kernel": f"{QUERY}/kernel",
        "layers/bottleneck_output/bias": f"{LAYER}/output/bottleneck/dense/bias",
    }.items():
        np.testing.assert_array_equal(weights.values[ours][1], written[theirs])
    np.testing.assert_array_equal(weights.values["embeddings/word/table"], written["bert/embeddings/word_embeddings"])
    np.testing.assert_array_equal(
        weights.values["heads/next_sentence/kernel"], written["cls/seq_relationship/output_weights"].T
    )
    np.testing.assert_array_equal(
        weights.values["heads/masked_lm/extra/table"], written["cls/predictions/extra_output_weights"]
    )


@pytest.mark.parametrize("name", tf1_files.PRESETS)
def test_what_is_written_bears_the_original_names_and_shapes(name: str, tmp_path: Path) -> None:
    model = tf1_files.narrow(name)
    weights = tf1_files.pretrained(model)
    tf1.write(Weights(values=weights.values, model=leaves(model), vocabulary=b"[PAD]\n"), tmp_path / "out")
    listed = dict(tf.train.list_variables(str(tmp_path / "out")))
    assert {key: tuple(shape) for key, shape in listed.items()} == tf1_files.names(model)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("bert_config.json", "checkpoint", "mobilebert.ckpt.data-00000-of-00001", "mobilebert.ckpt.index", "vocab.txt")
    ]
    back = tf1.read(tmp_path / "out")
    assert back.values.keys() == weights.values.keys()
    for key, value in weights.values.items():
        np.testing.assert_array_equal(back.values[key], value, err_msg=key)
    told = {key: value for key, value in leaves(model).items() if key in (back.model or {})} | {"name": "bert_config"}
    assert back.model == told
    assert back.vocabulary == b"[PAD]\n"


def test_the_original_file_of_an_architecture_is_read_as_it(opt: ModelConfig, tmp_path: Path) -> None:
    (tmp_path / "opt.json").write_text(json.dumps(original(leaves(opt))), encoding="utf-8")
    read = architecture(str(tmp_path / "opt.json"))
    assert read == {key: value for key, value in leaves(opt).items() if key in read}


def test_an_optimizers_state_and_the_step_are_ignored_by_name(
    opt: ModelConfig, tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    prefix = tf1_files.save(tmp_path / "model.ckpt", {**tensors, **tf1_files.optimizer_state(tensors)}, step=0)
    found = settled(tf1.read(prefix), opt, Demand.whole)
    assert len(found.ignored) == 2 * len(tensors) + 1
    assert str(found).endswith(
        f"newly initialised 0, ignored {2 * len(tensors) + 1} "
        f"(*/adam_m × {len(tensors)}, */adam_v × {len(tensors)}, global_step)"
    )


def test_the_slots_of_tensorflows_own_optimizer_are_ignored(opt: ModelConfig, tmp_path: Path) -> None:
    shapes = tf1_files.names(opt)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [
            tf.compat.v1.get_variable(name, shape, initializer=tf.compat.v1.initializers.ones(), use_resource=False)
            for name, shape in shapes.items()
        ]
        loss = tf.add_n([tf.reduce_sum(variable) for variable in variables])
        tf.compat.v1.train.AdamOptimizer().minimize(loss, tf.compat.v1.train.get_or_create_global_step())
        session.run(tf.compat.v1.global_variables_initializer())
        prefix = tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    found = settled(tf1.read(Path(prefix)), opt, Demand.whole)
    assert {"global_step", "beta1_power", f"{QUERY}/bias/Adam", f"{QUERY}/bias/Adam_1"} <= set(found.ignored)
    assert len(found.ignored) == 2 * len(shapes) + 3


def test_names_without_their_scope_and_of_a_hub_module_are_read_too(
    opt: ModelConfig, tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    bare = {name.removeprefix("bert/"): value for name, value in tensors.items()}
    module = {f"module/{name}": value for name, value in tensors.items()}
    for number, renamed in enumerate((bare, module)):
        weights = tf1.read(tf1_files.save(tmp_path / f"{number}" / "x.ckpt", renamed))
        assert len(settled(weights, opt, Demand.whole).loaded) == len(weights.values)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (f"{QUERY}/bias", f"lacks {QUERY}/bias; choose a whole one"),
        ("bert/embeddings/embedding_transformation/kernel", "lacks embeddings/projection/kernel; choose a whole one"),
        ("cls/predictions/output_bias", "lacks heads/masked_lm/output/bias; choose a whole one"),
    ],
)
def test_a_missing_variable_is_named_and_may_be_started_without(
    missing: str, message: str, opt: ModelConfig, tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    left = {name: value for name, value in tensors.items() if name != missing}
    weights = tf1.read(tf1_files.save(tmp_path / "x.ckpt", left))
    with pytest.raises(CheckpointError) as refused:
        settled(weights, opt)
    assert str(refused.value) == f"init.checkpoint=X {message}; init.strict=false starts with what fits"
    found = settled(weights, opt, Demand.some)
    assert 0 < len(found.initialised) < 8
    assert len(found.loaded) + len(found.initialised) == len(encoder_variables(opt)) + len(pretraining_variables(opt))


def test_a_transposed_kernel_is_named(opt: ModelConfig, tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    def refused(number: int, *names: str) -> str:
        turned = {name: value.T if name in names else value for name, value in tensors.items()}
        weights = tf1.read(tf1_files.save(tmp_path / f"{number}" / "x.ckpt", turned))
        with pytest.raises(CheckpointError) as problem:
            settled(weights, opt)
        return str(problem.value).partition(" ")[2].partition("; ")[0]

    kernel = "bottleneck/input/dense/kernel"
    assert refused(0, f"{LAYER}/{kernel}") == (
        f"has {LAYER}/{kernel} of shape [12, 24], and bert/encoder/layer_0/{kernel} of [24, 12]"
    )
    assert refused(1, *(f"bert/encoder/layer_{layer}/{kernel}" for layer in range(2))) == (
        "has layers/bottleneck_input/kernel transposed: [2, 12, 24] there, [2, 24, 12] here"
    )
    assert refused(2, "bert/embeddings/word_embeddings") == (
        "has embeddings/word/table transposed: [8, 131] there, [131, 8] here"
    )


def test_bert_is_no_mobilebert(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {"bert/embeddings/word_embeddings": (50, 12), "bert/pooler/dense/bias": (12,)}
    for layer in range(2):
        for part in ("attention/self/query", "attention/self/key", "attention/output/dense", "output/dense"):
            shapes |= {f"bert/encoder/layer_{layer}/{part}/kernel": (12, 12)}
    prefix = tf1_files.save(tmp_path / "bert_model.ckpt", tf1_files.drawn(shapes))
    with pytest.raises(CheckpointError) as refused:
        tf1.read(prefix)
    assert str(refused.value) == (
        f"checkpoint {prefix} is of BERT, not of MobileBERT: its layers have no bottleneck/input/dense; "
        "give a MobileBERT's"
    )
    other = tf1_files.save(tmp_path / "other.ckpt", {"conv/weights": np.zeros((2, 2), np.float32)})
    with pytest.raises(CheckpointError, match=r"holds no MobileBERT: none of its 1 variables is .*conv/weights"):
        tf1.read(other)


@pytest.mark.parametrize("damage", ["half of the data", "no data", "half of the index", "a flipped bit"])
def test_a_damaged_file_is_one_line(damage: str, tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    prefix = tf1_files.save(tmp_path / "x.ckpt", tensors)
    data, index = Path(f"{prefix}.data-00000-of-00001"), Path(f"{prefix}.index")
    file = index if "index" in damage else data
    content = bytearray(file.read_bytes())
    if damage == "no data":
        data.unlink()
    elif damage == "a flipped bit":
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=rf"^checkpoint {prefix} cannot be read \(.+\); choose another$") as told:
        tf1.read(prefix)
    assert "\n" not in str(told.value)


def test_wherever_one_points(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    """A prefix, one of its files, a folder with a state file (moved meanwhile, too), a folder with one checkpoint."""
    folder = tmp_path / "made"
    tf1_files.save(folder / "x.ckpt", tensors, step=0)
    prefix = folder / "x.ckpt-0"
    for path in (prefix, Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001"), folder):
        assert tf1.recognises(path), path
        location.check(str(path))
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    (moved / "checkpoint").write_text(f'model_checkpoint_path: "{prefix}"\n', encoding="utf-8")
    assert tf1.read(moved).values.keys() == tf1.read(moved / prefix.name).values.keys()
    (moved / "checkpoint").unlink()
    assert tf1.recognises(moved)
    shutil.copy(moved / "x.ckpt-0.index", moved / "y.ckpt.index")
    with pytest.raises(CheckpointError, match=r"moved holds 2 checkpoints \(x.ckpt-0, y.ckpt…\); name one of them$"):
        tf1.recognises(moved)
    for nothing in (tmp_path, tmp_path / "absent", moved / "z.ckpt"):
        assert not tf1.recognises(nothing)


def test_a_file_is_told_by_the_end_of_its_name(tmp_path: Path) -> None:
    """In a folder whose own name looks like a file's, and for each file that TensorFlow 1's Saver writes."""
    tensors = {"a": np.zeros(2, np.float32)}
    prefix = tf1_files.save(tmp_path / "my.data-00000-of-00001/x.index-1.ckpt", tensors)
    for suffix in ("", ".index", ".data-00000-of-00001", ".meta"):
        path = Path(f"{prefix}{suffix}")
        if suffix == ".meta":
            path.write_bytes(b"a graph")
        assert prefixes.prefix_of(path) == prefix
        location.check(str(path))
    other = prefix.with_name(f"{prefix.name}.data-00000-of-00001.bak")
    other.write_bytes(b"")
    assert prefixes.prefix_of(other) is None
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        location.check(str(other))


def test_an_index_is_not_read_without_bound(tmp_path: Path) -> None:
    prefix = tmp_path / "x.ckpt"
    with Path(f"{prefix}.index").open("wb") as stream:
        stream.truncate(prefixes.MOST_INDEX_BYTES + 1)  # a sparse file
    with pytest.raises(CheckpointError, match=rf"^checkpoint {prefix}.index is refused: it has more than 67,108,864 b"):
        tf1.recognises(prefix)
    Path(f"{prefix}.index").unlink()
    with pytest.raises(CheckpointError, match=rf"^checkpoint {prefix}.index cannot be read \(No such file or direct"):
        prefixes.is_object_based(prefix)


@pytest.mark.parametrize("number", [2**20, 2**40])
def test_an_index_that_states_more_than_the_data_hold_is_one_line(number: int, tmp_path: Path) -> None:
    """As one that knows a part alone of a variable does: TensorFlow would make room for all of it."""
    prefix, name = tmp_path / "x.ckpt", "bert/encoder/layer_0/bottleneck/input/dense/kernel"
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=[name], shape_and_slices=[f"{number} 0,1"], tensors=[tf.zeros([1])]
    )
    with pytest.raises(CheckpointError) as told:
        tf1.read(prefix)
    reason = f"its index states {4 * number:,} bytes, and its data have 4"
    assert str(told.value) == f"checkpoint {prefix} cannot be read ({reason}); choose another"


def test_heads_of_fine_tuning(opt: ModelConfig, tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    """SQuAD's is by rows there; a classifier's is called nothing but output_weights."""
    encoder = {name: value for name, value in tensors.items() if name.startswith("bert/")}
    rows = np.arange(2 * 24, dtype=np.float32).reshape(2, 24)
    heads = {"cls/squad/output_weights": rows, "cls/squad/output_bias": np.ones(2, np.float32)}
    weights = tf1.read(tf1_files.save(tmp_path / "squad.ckpt", encoder | heads))
    np.testing.assert_array_equal(weights.values["heads/span/kernel"], rows.T)
    wanted = [*encoder_variables(opt), *span_variables(opt)]
    found = account(weights, wanted=wanted, model=opt, head="x", demand=Demand.whole, source="X")
    assert (found.initialised, found.ignored) == ((), ())
    heads = {"output_weights": rows, "output_bias": np.ones(2, np.float32)}
    weights = tf1.read(tf1_files.save(tmp_path / "sentences.ckpt", encoder | heads))
    np.testing.assert_array_equal(weights.values["heads/classifier/kernel"], rows.T)


def test_without_norms_nothing_tells_which_they_are(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    gone = ("bert/embeddings/FakeLayerNorm/", "/bottleneck/input/FakeLayerNorm/")
    rest = {name: value for name, value in tensors.items() if not any(part in name for part in gone)}
    assert len(rest) < len(tensors)
    prefix = tf1_files.save(tmp_path / "x.ckpt", rest)
    with pytest.raises(CheckpointError, match=rf"^checkpoint {prefix} lacks the norms of its embeddings .+ whole one$"):
        tf1.read(prefix)


def test_norms_that_contradict_the_file_beside_them(
    opt: ModelConfig, tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    prefix = tf1_files.save(tmp_path / "x.ckpt", tensors)
    stated = original(leaves(opt)) | {"normalization_type": "layer_norm"}
    (tmp_path / "my_model.json").write_text(json.dumps(stated), encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"x.ckpt has normalization=no_norm, and the model's file beside it says layer_norm"
    ):
        tf1.read(prefix)
    (tmp_path / "bert_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}/bert_config.json: no JSON"):
        tf1.read(prefix)
