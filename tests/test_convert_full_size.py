"""Every shipped architecture at its full size, from ours to another format and back: what returns is what was there.

The teacher's weights are 1.2 GB: its case takes up to 7 GB of memory, and 4 GB of the disk while it runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import invented_weights
import numpy as np
import pytest
from command_line import here

from mobilebert_exp import compose
from mobilebert_exp.modeling.checkpoints import native_weights
from mobilebert_exp.modeling.checkpoints.weights import Weights

FORMATS = ("tf1", "tf_models", "huggingface")
SPECIAL = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Gigabytes, which pytest would keep."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def whole(name: str) -> Weights:
    """Invented weights of a preset, both heads of pre-training and a vocabulary included."""
    model = compose([f"model={name}"]).model
    assert model.vocab_size is not None
    words = (f"word{number}\n" for number in range(model.vocab_size - SPECIAL.count("\n")))
    return invented_weights.invented(model, vocabulary=(SPECIAL + "".join(words)).encode())


def architecture(weights: Weights) -> dict[str, object]:
    """Without how it is called and computed."""
    return {key: value for key, value in (weights.model or {}).items() if key not in ("name", "layer_loop")}


def converted(source: Path, target: Path, *, to: str) -> None:
    ended = here("convert", str(source), str(target), "--to", to)
    assert ended.code == 0, ended.err
    assert "heads: masked_lm, next_sentence; with its vocabulary; " in ended.out


def assert_same_bits(found: Weights, expected: Weights, *, after: str) -> None:
    """As many variables, of the same names, with the same bits."""
    assert sorted(found.values) == sorted(expected.values), after
    for name, value in expected.values.items():
        assert found.values[name].dtype == np.float32, (after, name)
        assert np.array_equal(found.values[name].view(np.uint32), value.view(np.uint32)), (after, name)
    assert not found.faults, after


@pytest.mark.slow
@pytest.mark.parametrize("name", invented_weights.PRESETS)
def test_a_round_trip_through_each_format_is_bit_equal(name: str, folder: Path) -> None:
    weights, source = whole(name), folder / "native"
    native_weights.write(weights, source)
    for number, to in enumerate(FORMATS):
        there, back = folder / to, folder / f"back-{number}"
        converted(source, there, to=to)
        converted(there, back, to="native")
        shutil.rmtree(there)
        found = native_weights.read(back)
        shutil.rmtree(back)
        assert_same_bits(found, weights, after=to)
        assert found.vocabulary == weights.vocabulary, to
        assert architecture(found) == architecture(weights), to
