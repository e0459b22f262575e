"""Configs from YAML or JSON files and command lines: what is wrong with one is said in a line that names the field."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from ..training.config.train import TrainConfig
from .config import Config, ConfigError

AnyConfig = TypeVar("AnyConfig", bound=Config)


def check_fields(values: Any, source: str, model: type[Config] = TrainConfig) -> dict[str, Any]:
    """The mapping of a config file. Raises ConfigError for anything else and for fields that do not exist."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected `field: value` lines, found {type(values).__name__}")
    known = list(model.model_fields)
    for field in values:
        if field not in known:
            near = difflib.get_close_matches(str(field), known, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(known)}"
            raise ConfigError(f"{source}: unknown field {field!r}; {hint}")
    return values


def read_config(
    path: Path,
    overrides: dict[str, Any] | None = None,
    model: type[AnyConfig] = TrainConfig,
    defaults: dict[str, Any] | None = None,
) -> AnyConfig:
    """Read a YAML or JSON config; `overrides` win over the file, the file over `defaults`.

    Relative paths are relative to the working directory.

    Raises ConfigError that names the file, the field and what is wrong with it.
    """
    import yaml

    kind, load = ("JSON", json.loads) if path.suffix == ".json" else ("YAML", yaml.safe_load)
    try:
        values = load(path.read_text(encoding="utf-8")) or {}
    except IsADirectoryError:
        raise ConfigError(f"config {path} is a folder; give the file in it") from None
    except FileNotFoundError:
        raise ConfigError(f"config {path} does not exist") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not a {kind} file: {_one_line(error)}") from None
    given = {**check_fields(values, str(path), model), **check_fields(overrides or {}, "command line", model)}
    return make_config(model, {**(defaults or {}), **given}, str(path))


def make_config(model: type[AnyConfig], values: dict[str, Any], source: str) -> AnyConfig:
    """A config of these values. Raises ConfigError that names `source` and what is wrong with each field."""
    try:
        return model(**values)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(map(_problem, error.errors()))) from None


def _problem(error: Any) -> str:
    """One of pydantic's errors: the field, what is wrong, and the value where there is one."""
    text = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # of the whole config: names its fields itself
        return text
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":  # fields within fields have no option of their own
        option = f"; add --{name.replace('_', '-')} VALUE" if len(error["loc"]) == 1 else ""
        return f"{name} is missing{option}"
    if error["type"] == "list_type":
        text = "is no list; write it in brackets and quotes, such as '[8, 16]'"
    return f"{name}: {text} (given: {error['input']!r})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def parse_overrides(words: list[str], model: type[Config] = TrainConfig) -> dict[str, Any]:
    """`--learning-rate 1e-3 --frames [8,16] --norm=false` as fields and values.

    Raises ConfigError for a word that is no `--field value` pair, and for a value that is no YAML.
    """
    values: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        field, equals, value = word.partition("=")
        if not field.startswith("--") or not (equals or rest):
            raise ConfigError(f"command line: cannot read {word!r}; write --field value, such as --steps 500")
        field = field[2:].replace("-", "_")
        check_fields({field: value}, "command line", model)
        values[field] = _parse(field, value if equals else rest.pop(0), model)
    return values


def _parse(field: str, word: str, model: type[Config]) -> Any:
    """An override's value: names and paths as they are, all else as YAML."""
    import yaml

    annotation = model.model_fields[field].annotation
    kinds = get_args(annotation) or (annotation,)
    if (str in kinds or Path in kinds) and not (word == "null" and type(None) in kinds):
        return word
    try:
        return yaml.safe_load(word)  # YAML 1.1 reads 1e-3 as text; the field's own type reads it as a number
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"command line: cannot read {field} {word!r}: {_one_line(error)}") from None
