"""Suggestions: a slip of the finger is mended, and a name from elsewhere is translated; nonsense is not guessed at."""

from __future__ import annotations

import pytest

from mobilebert_exp.composition import compose
from mobilebert_exp.config import leaves
from mobilebert_exp.groups import keys, register
from mobilebert_exp.spelling import ALIASES, nearest, nearest_key


@pytest.fixture(scope="module")
def known() -> list[str]:
    register()
    return keys([])


def test_every_key_is_found_with_a_letter_missing(known: list[str]) -> None:
    slips = {key: _slip(key) for key in leaves(compose()) if len(key.rsplit(".", 1)[-1]) > 4}
    assert len(slips) > 50
    found = {slip: nearest_key(slip, known) for slip in slips.values()}
    assert {slip: found[slip] for key, slip in slips.items() if found[slip] != key} == {}


def _slip(key: str) -> str:
    """The key without the third letter of its last part."""
    third = key.rfind(".") + 3
    return key[:third] + key[third + 1 :]


def test_every_key_is_found_without_its_section(known: list[str]) -> None:
    once = [
        key for key in known if "." in key and sum(name.endswith(f".{key.rsplit('.', 1)[-1]}") for name in known) == 1
    ]
    assert len(once) > 50
    found = {key: nearest_key(key.rsplit(".", 1)[-1], known) for key in once if key.rsplit(".", 1)[-1] not in known}
    assert {key: other for key, other in found.items() if other != key} == {}


def test_every_translation_leads_to_a_key(known: list[str]) -> None:
    assert {key for key in ALIASES.values() if key not in known} == set()
    assert all(nearest_key(name, known) == key for name, key in ALIASES.items())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr", "task.optimizer.learning_rate"),
        ("wd", "task.optimizer.weight_decay"),
        ("epochs", "task.num_train_epochs"),
        ("max_seq_len", "task.max_seq_length"),
        ("do_lower_case", "task.lower_case"),
        ("init_checkpoint", "init.checkpoint"),
        ("num_warmup_steps", "task.optimizer.warmup_steps"),
        ("experiment_name", "tracking.experiment"),
        ("steps", "trainer.max_steps"),
        ("layers", "model.num_layers"),
        ("colour", ""),
        ("task.x", ""),
    ],
)
def test_what_people_type(typed: str, meant: str, known: list[str]) -> None:
    assert nearest_key(typed, known) == meant


def test_no_options_no_suggestion() -> None:
    assert nearest("opt", []) == ""
    assert nearest_key("lr", []) == ""
