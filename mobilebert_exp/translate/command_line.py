"""Shell command lines: text to words, and settings to text that a shell and then Hydra read as they are meant.

A variable that the shell has not filled in yet stays one: in a word, its name stands between `OPEN` and `CLOSE`.
"""

from __future__ import annotations

import re
import shlex

from mobilebert_exp.errors import ConfigError

OPEN, CLOSE = "\ue000", "\ue001"  # of the private use area, which no command holds
VARIABLE = r"\$(?:(?P<name>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})"
PIECE = re.compile(
    r"(?P<joined>\\(?:\r?\n|\Z))"
    r"|(?P<next>\s*\n\s*(?=-))"  # no command begins with a dash: a line before an option has lost its backslash
    r"|(?P<comment>(?:(?<=\s)|\A)\#[^\n]*)"
    r"|(?P<space>[ \t\r]+)"
    r"|\\(?P<escaped>.)"
    r"|'(?P<single>[^']*)'"
    r'|"(?P<double>(?:[^"\\]|\\.)*)"'
    rf"|{VARIABLE}"
    r"|(?P<plain>[^\s\\'\"$;&|<>()`]+)",
    re.DOTALL,
)
IN_DOUBLE = re.compile(rf"\\(?P<escaped>[\"\\$`\n])|{VARIABLE}|(?P<plain>[^$`\\]+|\\)", re.DOTALL)
# What Hydra's grammar takes unquoted as the same text: no number, no word with a meaning, nothing that it splits at.
BARE = re.compile(r"(?:[A-Za-z_/]|\.{1,2}/)[\w./:@%+-]*", re.ASCII)
MEANINGFUL = {"null", "true", "false", "nan", "inf"}


class Text(str):
    """A value that is text whatever it looks like; any other value stands in a setting as it is."""

    __slots__ = ()


def words(text: str) -> list[str]:
    """The words of one command as a POSIX shell splits it, its variables left open.

    Raises:
      ConfigError: there is more than one command, or a part only a shell can work out.
    """
    found: list[str] = []
    text, at, is_open = text.strip(), 0, False  # is_open: what comes next belongs to the last word
    while at < len(text):
        piece = PIECE.match(text, at)
        if piece is None:
            raise _unreadable(text, at)
        at = piece.end()
        kind = piece.lastgroup or ""
        if kind in ("next", "space", "comment"):
            is_open = False
        elif kind != "joined":
            part = _in_double(piece[kind], text, at) if kind == "double" else _part(kind, piece[kind])
            found = [*found[:-1], found[-1] + part] if is_open else [*found, part]
            is_open = True
    return found


def _part(kind: str, text: str) -> str:
    return f"{OPEN}{text}{CLOSE}" if kind in ("name", "braced") else text


def _in_double(quoted: str, text: str, at: int) -> str:
    """What stands between double quotes, where variables and four escapes still mean something."""
    parts, position = "", 0
    while position < len(quoted):
        piece = IN_DOUBLE.match(quoted, position)
        if piece is None:
            raise _unreadable(text, at - len(quoted) - 1 + position)
        kind, position = piece.lastgroup or "", piece.end()
        parts += "" if piece[kind] == "\n" and kind == "escaped" else _part(kind, piece[kind])
    return parts


def _unreadable(text: str, at: int) -> ConfigError:
    rest = text[at:].strip().partition("\n")[0][:40]
    if text[at] in "\n;&|<>":
        return ConfigError(f"the command ends before {rest!r}; give one command, without what stands around it")
    if text[at] in "'\"":
        return ConfigError(f"the quote before {rest[1:]!r} is never closed; close it")
    return ConfigError(f"{rest!r} is something only a shell can work out; put its result there")


def setting(key: str, value: str) -> str:
    """`key=value` as a shell word which, when the shell is done with it, Hydra reads as that very value."""
    is_bare = BARE.fullmatch(value) and value.lower() not in MEANINGFUL
    return shell_word(f"{key}={value if is_bare or not isinstance(value, Text) else _hydra_quoted(value)}")


def _hydra_quoted(value: str) -> str:
    """In single quotes; backslashes count only before a quote, and before `${`, which would be an interpolation."""
    value = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    value = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", value)
    return "'" + re.sub(r"\\+\Z", lambda found: found[0] * 2, value) + "'"


def shell_word(text: str) -> str:
    """One word for a shell; double quotes where variables are open, or where single ones stand inside."""
    if OPEN in text:
        return '"' + shown(re.sub(r'([\\"$`])', r"\\\1", text)) + '"'
    return f'"{text}"' if "'" in text and not set(text) & set('"\\$`!') else shlex.quote(text)


def shown(text: str) -> str:
    """A word as a message names it, its open variables as they were written."""
    return re.sub(f"{OPEN}(.*?){CLOSE}", r"${\1}", text)
