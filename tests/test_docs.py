"""What README and docs/ say is so: keys and defaults, presets, commands, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mobilebert_exp import compose, verbs
from mobilebert_exp.config import leaves
from mobilebert_exp.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
KEYS_PAGE = CHECKOUT / "docs" / "configuration.md"
COMMAND = "python -m mobilebert_exp"
FLAGS = {"-m", "--cfg", "job", "--resolve", "--help"}  # what a composition has nothing to do with


def _rows(page: Path, *, columns: int) -> Iterator[list[str]]:
    """Cells of the tables' rows of so many columns whose first cell is one name in backticks."""
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == columns and re.fullmatch(r"`[\w.]+`", cells[0]):
            yield [cells[0].strip("`"), *cells[1:]]


def _value(text: str) -> Any:
    """A value as YAML reads it, numbers like 5e-5 included."""
    try:
        return float(text)
    except ValueError:
        return yaml.safe_load(text)


def _sections(page: Path) -> list[str]:
    """Fenced code blocks without a language."""
    return re.findall(r"^ *```\n(.*?)^ *```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def _commands() -> list[str]:
    lines = {line.strip() for page in PAGES for block in _sections(page) for line in block.splitlines()}
    return sorted(line for line in lines if line.startswith(COMMAND) and "…" not in line)


def test_every_key_is_explained_once_and_none_that_is_not_there() -> None:
    names = [row[0] for row in _rows(KEYS_PAGE, columns=3) if row[0].islower()]
    assert sorted(names) == sorted(leaves(compose()))


def test_the_defaults_are_those_of_a_bare_command() -> None:
    composed = leaves(compose())
    stated = {row[0]: row[2].strip("`") for row in _rows(KEYS_PAGE, columns=3) if re.fullmatch(r"`[^`]+`", row[2])}
    assert len(stated) > 50
    assert {key: _value(text) for key, text in stated.items()} == {key: composed[key] for key in stated}


def test_the_presets_table_is_what_the_presets_state() -> None:
    header = next(line for line in KEYS_PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| field |"))
    presets = [cell.strip() for cell in header.strip("|").split("|")][1:]
    assert set(presets) == {file.stem for file in (CHECKOUT / "conf" / "model").glob("*.yaml")}
    models = [leaves(compose([f"model={name}"]).model) for name in presets]
    stated = {row[0]: [_value(cell) for cell in row[1:]] for row in _rows(KEYS_PAGE, columns=len(presets) + 1)}
    assert stated == {name: [model[name] for model in models] for name in stated}
    same = {"attention_mask_value", "layer_norm_epsilon", "hugging_face_norms"}
    assert set(models[0]) - set(stated) == {"name", "layer_loop", *same}


@pytest.mark.parametrize("name", ["README.md", "docs/starter-data.md"])
def test_the_figures_are_those_of_the_preset(name: str) -> None:
    """A preset of another length would have other figures."""
    steps = compose(["+preset=starter"]).trainer.max_steps
    assert f"{steps:,} steps" in (CHECKOUT / name).read_text(encoding="utf-8")


def _first_word(command: str) -> str:
    return (shlex.split(command.removeprefix(COMMAND)) or [""])[0]


def _experiments() -> list[str]:
    return [command for command in _commands() if _first_word(command) not in verbs.NAMES]


def test_there_are_commands() -> None:
    assert len(_experiments()) > 15
    assert {_first_word(command) for command in _commands()} >= verbs.NAMES.keys(), "each verb is shown once"


@pytest.mark.parametrize("command", _experiments())
def test_a_command_composes(command: str) -> None:
    words = [word for word in shlex.split(command.removeprefix(COMMAND)) if word not in FLAGS]
    is_multirun = "-m" in command.removeprefix(COMMAND).split()
    compose([re.sub(r"(=[^,\[{]*),.*", r"\1", word) if is_multirun else word for word in words])


def test_the_mistake_shown_reads_like_that() -> None:
    shown = re.findall(rf"^\$ {COMMAND} (.+)\nerror: (.+)$", PAGES[0].read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert shown
    for overrides, text in shown:
        with pytest.raises(ConfigError, match=re.escape(text)):
            compose(shlex.split(overrides))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.is_file(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
