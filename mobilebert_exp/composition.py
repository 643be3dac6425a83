"""From Hydra's YAML to a typed config, and from Hydra's errors to one line a person can act on."""

from __future__ import annotations

import argparse
import enum
import errno
import itertools
import json
import re
import sys
import traceback
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, NoReturn

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationResolutionError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from mobilebert_exp import groups, original_json
from mobilebert_exp.checks import KINDS
from mobilebert_exp.config import ExperimentConfig, Mode
from mobilebert_exp.errors import ConfigError, OutputError, UserError
from mobilebert_exp.groups import ADDED_GROUPS, DEFAULT_GROUPS, FROM_JSON, SCHEMA, register, shipped
from mobilebert_exp.spelling import nearest, nearest_key

__all__ = ["compose", "explained", "job", "prepare", "register", "shipped", "typed"]

STARTER = "+preset=starter"  # what runs where nothing is asked for
NO_ROOM_OR_RIGHTS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
)


def compose(overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Composes an experiment as the command line does, e.g. `compose(["model=opt", "task.max_seq_length=384"])`.

    Raises:
      ConfigError: an override or a combination cannot work.
    """
    register()
    try:
        return typed(groups.composed(_spelled_out(overrides)))
    except Exception as problem:
        raise explained(problem, overrides) from None


def typed(config: DictConfig) -> ExperimentConfig:
    """The checked dataclasses behind a composed config."""
    for key in _added(config):
        value = OmegaConf.select(config, key)
        if key in ADDED_GROUPS:
            raise ConfigError(_unknown_option(key, str(value), groups.options(key)))
        known = [name for name in groups.walk(config) if name != key and not name.startswith(f"{key}.")]
        raise ConfigError(_unknown_key(key, known, value=value))
    found = OmegaConf.to_object(config)
    assert isinstance(found, ExperimentConfig)
    return found


def prepare(arguments: Sequence[str], *, verbs: Collection[str]) -> tuple[str, list[str]]:
    """Makes ready for `hydra.main`; returns its `config_path`, and the arguments with `model.from_json` spelled out.

    Without any, they are those of the starter experiment.

    Args:
      verbs: what else a command may begin with.

    Raises:
      ConfigError: a misspelt verb; a flag that Hydra does not know, most often a key that was written as one; an
        unusable JSON file.
      SystemExit: help was asked for and shown. Hydra shows the same, but takes a second to list groups for it.
    """
    if not arguments:
        arguments = [STARTER]
        print(f"no arguments: running the starter experiment, mobilebert_exp {STARTER}", file=sys.stderr)
    register()
    _check_verb(arguments[0], verbs)
    if _parsed(arguments).help:
        print(OmegaConf.load(shipped("conf") / "config.yaml").hydra.help.template)
        raise SystemExit(0)
    return str(shipped("conf")), _spelled_out(arguments)


def _check_verb(word: str, verbs: Collection[str]) -> None:
    """Raises ConfigError for a word in the place of a verb that resembles one, or a mode, which is a setting."""
    modes = {mode.name: f"mode={mode.name}" for mode in Mode}
    known = {*(field.name for field in fields(ExperimentConfig)), *ADDED_GROUPS} - modes.keys()
    if not word.replace("-", "_").isidentifier() or word.startswith("-") or word in known:
        return
    if meant := nearest(word, [*verbs, *modes]):
        raise ConfigError(f"{word} is neither a verb nor a setting; did you mean {modes.get(meant, meant)}?")


def _spelled_out(arguments: Sequence[str]) -> list[str]:
    """`model.from_json=FILE` as the settings it stands for, but for those that are set beside it.

    So what is shown and recorded is the architecture itself, and the run can be repeated without the file.
    """
    names = _names(list(arguments))
    found: list[str] = []
    for argument, name in zip(arguments, names, strict=True):
        if name != FROM_JSON:
            found.append(argument)
            continue
        override = OverridesParser.create().parse_overrides([argument])[0]
        if override.is_sweep_override():
            raise ConfigError(f"{argument} names several files; give one, and each of them a command")
        if override.value() is not None:
            fields = original_json.architecture(str(override.value())).items()
            found += [f"model.{key}={_written(value)}" for key, value in fields if f"model.{key}" not in names]
    return found


def _written(value: object) -> str:
    """A value as Hydra's grammar reads it back."""
    return json.dumps(value) if isinstance(value, str) else str(value).lower()


@dataclass(kw_only=True, frozen=True, slots=True)
class HydraJob:
    """The job of Hydra's that runs now.

    Attributes:
      number: in its multirun.
      folder: which Hydra has made for it.
      made: names of what Hydra has put there; empty where it keeps no record, as of a plan.
      sweep_dir: folder of its multirun; None outside of one.
      overrides: what was typed in, any `${…}` in it left as it stands.
    """

    number: int | str
    folder: str
    made: tuple[str, ...]
    sweep_dir: str | None
    overrides: list[str]


def job() -> HydraJob:
    """Which job of Hydra's runs now."""
    found = HydraConfig.get()
    overrides = OmegaConf.to_container(found.overrides.task)
    assert isinstance(overrides, list)
    is_one_of_many = found.mode is not None and found.mode.name == "MULTIRUN"
    return HydraJob(
        number=found.job.num if is_one_of_many else 0,
        folder=found.runtime.output_dir,
        made=(found.output_subdir, f"{found.job.name}.log") if found.output_subdir else (),
        sweep_dir=found.sweep.dir if is_one_of_many else None,
        overrides=overrides,
    )


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments as Hydra parses them."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        _, is_unknown, rest = message.partition("unrecognized arguments: ")
        unknown = rest.split(" ")[0]
        if not is_unknown:
            raise ConfigError(f"{message}; see --hydra-help for the flags")
        if not unknown.startswith("-"):
            raise ConfigError(f"{unknown} stands apart from the settings before it; put flags such as -m first")
        name, _, value = unknown.lstrip("-").partition("=")
        key = name if name in (*DEFAULT_GROUPS, *ADDED_GROUPS) else nearest_key(name.replace("-", "_"), groups.keys([]))
        plus = "+" if key in ADDED_GROUPS else ""
        remedy = f"settings have no dashes: {plus}{key}={value or '…'}" if key else "see --help"
        raise ConfigError(f"{unknown} is not a flag; {remedy}")

    setattr(parser, "error", refuse)  # noqa: B010  a method of argparse's, replaced
    return parser.parse_args(list(arguments))


def explained(problem: BaseException, arguments: Iterable[str] = ()) -> UserError:
    """One line for what Hydra, OmegaConf, YAML or the file system said; anything else is raised as it is."""
    arguments = list(arguments)
    chain = list(_chain(problem))
    for each in chain:
        if isinstance(each, UserError):
            return each
    if isinstance(problem, yaml.YAMLError):
        return groups.yaml_fault(problem)
    if isinstance(problem, (HydraException, OmegaConfBaseException)):
        return ConfigError(_composition_fault(chain, arguments))
    if isinstance(problem, OSError) and (problem.errno in NO_ROOM_OR_RIGHTS or _raised_in(problem).co_name == "mkdir"):
        place = problem.filename or "the output directory"
        remedy = "make room there, or set output_dir and cache_dir elsewhere"
        return OutputError(f"cannot write {place} ({problem.strerror}); {remedy}")
    if isinstance(problem, ValueError) and "/hydra/" in _raised_in(problem).co_filename:
        return ConfigError(_override_fault(problem, arguments))
    raise problem


def _chain(problem: BaseException | None) -> Iterator[BaseException]:
    """An exception and what caused it, outermost first."""
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__


def _raised_in(problem: BaseException) -> types.CodeType:
    """The code that raised it."""
    *_, (frame, _) = traceback.walk_tb(problem.__traceback__)
    return frame.f_code


def _first_line(problem: BaseException) -> str:
    return next(iter(str(problem).strip().splitlines()), type(problem).__name__).rstrip(".")


def _composition_fault(chain: list[BaseException], arguments: list[str]) -> str:
    """What is wrong, from the first exception of the chain that says which key it is about."""
    where = re.search(r"In '(.+)': \w+ raised while composing config", str(chain[0]))
    file = f"{where[1].replace('sweep/', 'sweeps/')}.yaml: " if where else ""
    for fault in chain:
        if isinstance(fault, OmegaConfBaseException) and fault.full_key and fault.object_type is not None:
            return file + _key_fault(fault, arguments)
    return file + _override_fault(chain[0], arguments)


def _key_fault(fault: OmegaConfBaseException, arguments: list[str]) -> str:
    key = str(fault.full_key)
    if isinstance(fault, ConfigTypeError) and "deletion" in str(fault):
        return f"~{key}: a setting cannot be removed; give it another value"
    if isinstance(fault, (ConfigKeyError, ConfigAttributeError)):
        key = next((name for name in _names(arguments) if name.startswith(f"{key}.")), key)  # as it was written
        if fault.object_type is dict:
            return f"{key} is not there yet; add it with a plus: +{key}={_typed_in(key, arguments) or '…'}"
        return _unknown_key(key, groups.keys(arguments), value=_typed_in(key, arguments))
    if isinstance(fault, (MissingMandatoryValue, InterpolationToMissingValueError)):
        return _no_value(fault, key)
    if isinstance(fault, InterpolationResolutionError):
        return f"{key}: {_first_line(fault)}; correct what stands between ${{ and }}"
    if isinstance(fault, ValidationError):
        return _wrong_value(fault)
    return f"{key}: {_first_line(fault)}; see --cfg job"


def _no_value(fault: OmegaConfBaseException, key: str) -> str:
    if isinstance(fault, InterpolationToMissingValueError):  # then `key` is who asked, not who is missing
        key = _first_line(fault).rpartition(" ")[2]
    if key in DEFAULT_GROUPS:
        return f"{key} has no value; choose one with {key}=…: {', '.join(groups.options(key))}"
    return f"{key} has no value; set it on the command line or in its YAML file"


def _override_fault(problem: BaseException, arguments: list[str]) -> str:
    """What is wrong with the command line itself, from Hydra's words for it."""
    text = str(problem)
    if isinstance(problem, OverrideParseException):
        written = problem.override
        if "missing EQUAL" in text:
            return f"{written} has no value; write {written}=VALUE"
        return f"{written} cannot be read: a bracket or a special character; quote the value: '{_quoted(written)}'"
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        listed = text.partition("Available options in")[2].splitlines()[1:]
        options = [line.strip() for line in itertools.takewhile(lambda line: line.startswith("\t"), listed)]
        return _unknown_option(match[1], match[2], options)
    if match := re.search(r"Could not delete '([^']+)'|'([^']+)' does not exist", text):
        return f"~{match[1] or match[2]} removes nothing; leave it out"
    if match := re.search(r"Could not override '([^'=]+)", text):
        return _unknown_key(match[1], groups.keys(arguments), value=_typed_in(match[1], arguments))
    if match := re.search(r"Ambiguous value for argument '([^']+)'|Sweep parameters '([^']+)'", text):
        return f"{match[1] or match[2]} has several values; add -m to run a job for each"
    if match := re.search(r"Multiple values for (\w+)|config groups is not supported: '\++(\w+)", text):
        group = match[1] or match[2]
        return f"{group} is chosen already; write {group}={_typed_in(group, arguments) or '…'} without a plus"
    if match := re.search(r"An item is already at '([^']+)'", text):
        return f"{match[1]} is there already; write {match[1]}={_typed_in(match[1], arguments) or '…'} without the plus"
    if "Config group override must be a string" in text:
        faulty = next((a for a in arguments if _names_no_option(a)), "a config group")
        return f"{faulty}: a group takes the name of one of its options; see --help"
    return f"{_first_line(problem)}; see --help"


def _names_no_option(argument: str) -> bool:
    name, _, value = argument.partition("=")
    return name in ("", *DEFAULT_GROUPS) and value not in groups.options(name)


def _quoted(override: str) -> str:
    key, _, value = override.partition("=")
    return f'{key}="{value}"'


def _typed_in(key: str, arguments: list[str]) -> str | None:
    """The value that the command line gives a key."""
    values = [argument.partition("=")[2] for argument in arguments]
    return next((value for name, value in zip(_names(arguments), values, strict=True) if name == key), None)


def _names(arguments: list[str]) -> list[str]:
    return [argument.partition("=")[0].lstrip("+~") for argument in arguments]


def _unknown_option(group: str, option: str, options: list[str]) -> str:
    known = [name for name in options if SCHEMA not in name]
    near = (group == "task" and groups.data_set(option)) or nearest(option, known)
    hint = f"did you mean {near}? " if near else ""
    plus = "+" if group in ADDED_GROUPS else ""
    return f"{plus}{group}={option} is not an option; {hint}options: {', '.join(known) or 'none'}"


def _unknown_key(key: str, known: list[str], *, value: Any = None) -> str:
    shown = "…" if value is None else value
    if key in ADDED_GROUPS:
        return f"{key} is a group that must be added with a plus: +{key}={shown}"
    if key == FROM_JSON:
        return f"{key}={shown} stands in a file or a sweep; write it on the command line"
    if key.startswith("hydra."):
        return f"{key} is not a key of Hydra's; --cfg hydra lists them"
    near = nearest_key(key, known)
    return f"{key} is not a key of this experiment; {f'did you mean {near}?' if near else '--cfg job lists the keys'}"


def _wrong_value(fault: ValidationError) -> str:
    """Key, value, what belongs there, and the nearest right word or an example."""
    key, name = str(fault.full_key), str(fault.key)
    value = "null" if fault.value is None else fault.value
    kind, example = _field(fault.object_type, name)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        names = [member.name for member in kind]
        near = nearest(str(value), names)
        return f"{key}={value} is not one of {', '.join(names)}; {f'did you mean {near}?' if near else 'choose one'}"
    if is_dataclass(kind):
        return f"{key}={value} gives one value to a section; set its keys, e.g. {key}.{fields(kind)[0].name}=…"
    if typing.get_origin(kind) is dict:
        return f"{key}={value} gives one value to a mapping; add entries: +{key}.NAME=…"
    wanted = KINDS.get(kind) if isinstance(kind, type) else None
    if wanted is None:
        return f"{key}={value}: {_first_line(fault)}; see --cfg job"
    return f"{key}={value} is not {wanted}; give one{f', e.g. {example}' if example is not None else ''}"


def _field(owner: Any, name: str) -> tuple[Any, Any]:
    """The type of a dataclass' field, null apart, and its default, where there is one."""
    if not is_dataclass(owner) or name not in (hints := typing.get_type_hints(owner)):
        return None, None
    kind = hints[name]
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kind = next(each for each in typing.get_args(kind) if each is not type(None))
    default = next(field.default for field in fields(owner) if field.name == name)
    return kind, None if default in (MISSING, "???") else str(default).lower() if kind is bool else default


def _added(config: DictConfig, *, prefix: str = "") -> Iterator[str]:
    """Keys that a plus has put where no schema knows them."""
    kind = OmegaConf.get_type(config)
    known = {field.name for field in fields(kind)} if is_dataclass(kind) else None
    for name in map(str, config):
        key = f"{prefix}{name}"
        if known is not None and name not in known:
            yield key
        elif not OmegaConf.is_missing(config, name) and isinstance(child := config[name], DictConfig):
            yield from _added(child, prefix=f"{key}.")
