"""`model_of`: the architecture that a checkpoint states, or one line that says which field cannot be meant."""

from __future__ import annotations

import pytest
import toy

from mobilebert_exp.config import leaves
from mobilebert_exp.errors import ConfigError
from mobilebert_exp.modeling.checkpoints.weights import model_of

MODEL = toy.model(num_layers=2)


def test_fields_as_yaml_writes_them_are_the_architecture() -> None:
    assert model_of(leaves(MODEL)) == MODEL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotary": True}, "model.rotary is not a field of a model; the checkpoint may be of a newer version"),
        ({"hidden_act": "swish"}, "model.hidden_act=swish is not one of relu, relu6, gelu, gelu_exact; choose one"),
        ({"layer_loop": ["scan"]}, "model.layer_loop=['scan'] is not one of scan, unroll; choose one"),
        ({"num_heads": "4"}, "the fields of the model cannot be meant ("),
        ({"num_heads": 0}, "model.num_heads=0 is "),
    ],
)
def test_a_field_that_cannot_be_meant_is_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        model_of({**leaves(MODEL), **change})
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)
