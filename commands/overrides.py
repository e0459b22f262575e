"""Read configs from YAML or JSON files and from command lines; every error is one line that names the field."""

import difflib
import json
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from .config import Config, ConfigError

AnyConfig = TypeVar("AnyConfig", bound=Config)
SHORT = {"-o": "--output"}


def read_config(path: Path, overrides: dict[str, Any], model: type[AnyConfig]) -> AnyConfig:
    """Read a YAML or JSON config, over which `overrides` win. Relative paths are relative to the working directory.

    Raises ConfigError that names the file, the field and what is wrong with it.
    """
    return make_config(model, {**read_values(path), **overrides}, str(path))


def read_values(path: Path) -> dict[str, Any]:
    """Return the fields and values of a YAML or JSON config. Raises ConfigError that names the file."""
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
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `field: value` lines, found {type(values).__name__}")
    return values


def make_config(model: type[AnyConfig], values: dict[str, Any], source: str) -> AnyConfig:
    """Return a config of these values. Raises ConfigError that names `source` and what is wrong with each field."""
    for field in values:
        _require_field(field, source, model)
    try:
        return model(**values)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(map(_problem, error.errors()))) from None


def _require_field(field: Any, source: str, model: type[Config]) -> None:
    known = list(model.model_fields)
    if field not in known:
        near = difflib.get_close_matches(str(field), known, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(known)}"
        raise ConfigError(f"{source}: unknown field {field!r}; {hint}")


def _problem(error: Any) -> str:
    """Describe one of pydantic's errors: the field, what is wrong, and the value if there is one."""
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


def parse_overrides(words: list[str], model: type[Config], rest: str | None = None) -> dict[str, Any]:
    """Parse `--learning-rate 1e-3 --frames [8,16] --norm=false` into fields and values.

    rest: the field that takes the words outside such pairs, in any place; None if there may be none.

    Raises ConfigError for a word that is no `--field value` pair, and for a value that is no YAML.
    """
    values: dict[str, Any] = {}
    others, waiting = [], list(words)
    while waiting:
        word = waiting.pop(0)
        if rest and not word.startswith("-"):
            others.append(word)
            continue
        field, equals, value = SHORT.get(word, word).partition("=")
        if not field.startswith("--") or not (equals or waiting):
            raise ConfigError(f"command line: cannot read {word!r}; write --field value, such as --steps 500")
        field = field[2:].replace("-", "_")
        _require_field(field, "command line", model)
        values[field] = _parse(field, value if equals else waiting.pop(0), model)
    return {**values, rest: others} if rest and others else values


def _parse(field: str, word: str, model: type[Config]) -> Any:
    """Return an override's value: names and paths as they are, all else as YAML."""
    import yaml

    annotation = model.model_fields[field].annotation
    kinds = get_args(annotation) or (annotation,)
    if (str in kinds or Path in kinds) and not (word == "null" and type(None) in kinds):
        return word
    try:
        return yaml.safe_load(word)  # YAML 1.1 reads 1e-3 as text; the field's own type reads it as a number
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"command line: cannot read {field} {word!r}: {_one_line(error)}") from None
