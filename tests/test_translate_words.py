"""How `translate` reads a command line, as a shell and absl do, and how it writes one, for a shell and Hydra."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mobilebert_exp.translate.command_line import CLOSE, OPEN, Text, setting, shell_word, words
from mobilebert_exp.translate.flags import SCRIPTS, parse


def _in_shell(text: str) -> list[str]:
    """The words that a real shell makes of a text, S being /s."""
    script = "show() { printf '%s\\0' \"$@\"; }; show " + text
    ran = subprocess.run(["bash", "-c", script], env={"S": "/s"}, check=True, capture_output=True, text=True)
    return ran.stdout.split("\0")[:-1]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("--use_tpu", True),
        ("-use_tpu", True),
        ("--nouse_tpu", False),
        ("--use_tpu=TRUE", True),
        ("--use_tpu=f", False),
        ("--use_tpu --use_tpu=0", False),
    ],
)
def test_switches_as_absl_reads_them(written: str, value: bool) -> None:
    assert parse(SCRIPTS["run_squad.py"], [*written.split(), "--"]) == {"use_tpu": value}


def test_values_as_absl_reads_them() -> None:
    written = "--doc_stride 1 -doc_stride=2 --vocab_file --odd --num_train_epochs=3.0 --n_best_size=0x10"
    found = parse(SCRIPTS["run_squad.py"], written.split())
    assert found == {"doc_stride": "2", "vocab_file": "--odd", "num_train_epochs": "3", "n_best_size": "16"}


@settings(max_examples=400)
@given(st.text(st.characters(exclude_categories=["Cs", "Co"], exclude_characters="\0"), min_size=1)
       | st.text("ab$ {}'\"\\,=[]()#!~:1e.\n", min_size=1))  # fmt: skip
def test_any_text_survives_shell_and_hydra(text: str) -> None:
    (word,) = shlex.split(setting("key", Text(text)))
    override = OverridesParser.create().parse_overrides([word])[0]
    assert not override.is_sweep_override()
    config = OmegaConf.create({"key": override.value()})
    assert config.key == text


@pytest.mark.parametrize(
    "text",
    [
        "a  b\tc",
        "'a b' \"c d\" e\\ f ''",
        "a'b'\"c\"d",
        '"a\\"b\\\\c\\$d\\x"',
        "'$S' \\$S",
        "a \\\n  b\\\nc",
        "a # b c\n",
        "a#b",
        "--x=*.json",
        "é ü",
    ],
)
def test_words_are_those_of_a_shell(text: str) -> None:
    assert words(text) == _in_shell(text)


def test_variables_stay_open() -> None:
    found = words("$S/a \"${S} b\" '$S'")
    assert found == [f"{OPEN}S{CLOSE}/a", f"{OPEN}S{CLOSE} b", "$S"]
    assert _in_shell(" ".join(map(shell_word, found))) == ["/s/a", "/s b", "$S"]
