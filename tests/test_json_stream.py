"""A list read element by element is the list, wherever the file is cut into parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilebert_exp.data import json_stream
from mobilebert_exp.data.json_stream import NotStreamableError, elements

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
objects = st.dictionaries(st.text(max_size=4), values, max_size=3)


def _read(path: Path) -> list[Any]:
    return [element for element, _ in elements(path, key="data")]


@pytest.mark.parametrize("block", [1, 3, 64, 2**19])
def test_elements_are_those_of_the_list(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_BLOCK_CHARS", block)
    path = tmp_path / "some.json"

    @given(before=objects, data=st.lists(values, max_size=5), after=objects, indent=st.sampled_from([None, 2, "\t"]))
    def check(before: dict[str, Any], data: list[Any], after: dict[str, Any], indent: Any) -> None:
        content = {f"a{name}": value for name, value in before.items()} | {"data": data}
        content |= {f"b{name}": value for name, value in after.items()}
        path.write_text(json.dumps(content, indent=indent, ensure_ascii=bool(indent)), encoding="utf-8")
        assert _read(path) == json.loads(path.read_text(encoding="utf-8"))["data"]

    check()


def test_the_share_of_the_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"data": ["x" * 100_000] * 50}), encoding="utf-8")
    shares = [share for _, share in elements(path, key="data")]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.2 and shares[-1] == 1


@pytest.mark.parametrize("block", [1, 2**19])
def test_what_is_no_such_file_is_said_to_be_none(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it whole then finds the fault, or that there is none."""
    monkeypatch.setattr(json_stream, "_BLOCK_CHARS", block)
    path = tmp_path / "some.json"
    good = '{"a": {"b": [1.5, "]"]}, "data": [{"x": [1]}, 2.25, "}"], "c": 12}'
    path.write_text(good, encoding="utf-8")
    assert _read(path) == [{"x": [1]}, 2.25, "}"]
    cuts = [good[:size] for size in range(len(good))]
    bad = ["[1]", "7", '{"a": 1}', '{"data": {}}', '{"data": [1,]}', '{"data": [1 2]}', '{"data": [1],}', "{1: 2}"]
    for text in (*cuts, *bad, f"{good} x", f'{{"data": {"[" * 100_000}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(NotStreamableError):
            _read(path)
    path.write_bytes(b'{"data": ["\xff"]}')
    for place in (path, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotStreamableError):
            _read(place)
