"""The base class of the verbs' configs, and the field types that several of them share."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class ConfigError(ValueError):
    """An invalid config; the message names the field and the remedy."""


class Config(BaseModel):
    """The typed settings of a verb. Every field has a docstring, which is its help; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False)


@contextmanager
def at_field(name: str) -> Iterator[None]:
    """Put the name of a field in front of each ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def named(path: Any, kind: str = "folder") -> Any:
    """Return the path unchanged. Raises ValueError if it is empty: Path would make it the working directory."""
    if path == "":
        raise ValueError(f"is empty; name a {kind}")
    return path


def _device(name: str) -> str:
    """Return the name unchanged. Raises ValueError unless it is auto, cpu, or a GPU that PyTorch sees."""
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d{1,3}))?", name)
    if match is None:
        raise ValueError("is none of auto, cpu, cuda, cuda:N")
    if name.startswith("cuda"):
        import torch  # only now, because it takes seconds to load

        if int(match[1] or 0) >= (count := torch.cuda.device_count()):
            raise ValueError(f"PyTorch sees {count} CUDA devices; use cpu, or auto to choose")
    return name


Decay = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Folder = Annotated[Path, BeforeValidator(named)]
Device = Annotated[str, AfterValidator(_device)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
VaePrecision = Literal["auto", "fp32", "bf16"]
