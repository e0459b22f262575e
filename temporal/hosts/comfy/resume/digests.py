"""Digests of whatever a sampler holds (tensors, models, ControlNets, functions), the same in every process."""

import dis
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import comfy.hooks
import comfy.model_patcher
import torch
from torch import nn

_PLAIN = (type(None), bool, int, float, complex, str)


class Digests:
    """Digests of the objects that one run depends on; each object is read once.

    Tensors, numbers, texts and collections are hashed by content, modules and ModelPatchers by weights, patches and
    settings, ControlNets by the settings of a copy. Functions are hashed by bytecode and captured variables, except
    variables that a closure reassigns: those are caches. Other objects are hashed by their pickled state. Objects that
    cannot be pickled (a lock, an open file) are hashed by type alone; `by_kind_only` lists them, each with the objects
    that hold it.
    """

    def __init__(self):
        self._known: dict[int, tuple[Any, bytes]] = {}  # the object too, so that its id stays taken
        self._weights: dict[int, bytes] = {}
        self._assigned: dict[int, CellType] = {}
        self._within: list[Any] = []
        self.by_kind_only: list[str] = []

    def digest(self, value: Any) -> str:
        before = len(self._assigned)
        try:
            found = self._of(value).hex()
            if len(self._assigned) == before:
                return found
            self._known.clear()  # again, because earlier functions captured variables that a later one reassigns
            return self._of(value).hex()
        except RecursionError:
            self.by_kind_only.append(_name(type(value)))
            return ""

    def _of(self, value: Any) -> bytes:
        if isinstance(value, _PLAIN):
            return _hash([f"{type(value).__name__}:{value!r}".encode()])
        if id(value) not in self._known:
            self._known[id(value)] = value, b"held by itself"
            self._within.append(value)
            try:
                self._known[id(value)] = value, _hash(self._contents(value))
            finally:
                self._within.pop()
        return self._known[id(value)][1]

    def _all(self, values: Iterable[Any]) -> Iterator[bytes]:
        return map(self._of, values)

    def _contents(self, value: Any) -> Iterator[bytes]:
        if isinstance(value, torch.Tensor):
            yield from _tensor(value)
        elif isinstance(value, bytes):
            yield b"bytes"
            yield value
        elif isinstance(value, Mapping):
            yield b"mapping"
            yield from sorted(self._of(key) + self._of(value[key]) for key in value)
        elif isinstance(value, (list, tuple)):
            yield f"list of {len(value)}".encode()
            yield from self._all(value)
        elif isinstance(value, (set, frozenset)):
            yield b"set"
            yield from sorted(self._all(value))
        elif isinstance(value, (type, ModuleType)):
            yield _name(value).encode()
        elif isinstance(value, CodeType):
            yield from self._all([value.co_code, value.co_consts, value.co_names])
        elif isinstance(value, FunctionType):
            cells = dict(zip(value.__code__.co_freevars, value.__closure__ or (), strict=True))
            self._assigned |= {id(cells[name]): cells[name] for name in _assigned(value.__code__)}
            enclosed = {name: _held(cell) for name, cell in cells.items() if id(cell) not in self._assigned}
            yield _name(value).encode()
            yield from self._all([value.__code__, enclosed, value.__defaults__, value.__kwdefaults__])
        else:
            yield "; ".join(map(_name, type(value).__mro__)).encode()
            yield from self._object(value)

    def _object(self, value: Any) -> Iterator[bytes]:
        if isinstance(value, nn.Module):
            yield from _weights(value)
            if not hasattr(value, "model_loaded_weight_memory"):  # else core notes there what it loads
                settings = {key: part for key, part in vars(value).items() if not key.startswith("_")}
                yield self._of([settings, dict(value.named_buffers())])
        elif isinstance(value, comfy.model_patcher.ModelPatcher):
            if id(value.model) not in self._weights:  # which its clones share
                # Core writes LoRAs into the weights when it loads a model, and keeps the originals in `backup`.
                self._weights[id(value.model)] = _hash(_weights(value.model, value.backup))
            yield self._weights[id(value.model)]
            settings = getattr(value.model, "config", None)  # of our own layers
            parts = settings, value.patches, value.object_patches, value.injections, value.additional_models
            yield from self._all(parts)
        elif isinstance(value, comfy.hooks.HookKeyframeGroup):  # its other attributes change while sampling
            yield from self._all([(k.start_percent, k.strength, k.guarantee_steps) for k in value.keyframes])
        elif hasattr(value, "cond_hint_original"):  # a ControlNet; a copy holds no leftovers of sampling
            copied = value.copy()
            self._known[id(copied)] = copied, b"held by itself"
            settings = vars(copied)
            if settings.get("control_model_wrapped") is not None:
                settings = {key: part for key, part in settings.items() if key != "control_model"}  # the same weights
            yield self._of(settings)
            yield self._of(value.previous_controlnet)
        else:
            yield from self._pickled(value)

    def _pickled(self, value: Any) -> Iterator[bytes]:
        try:
            kept = value.__reduce_ex__(4)
        except Exception:  # the object's own code can raise anything
            self._note_kind_only()
            return
        if isinstance(kept, str):  # the name of a global object
            yield self._of([kept, getattr(value, "__wrapped__", None)])
        else:
            yield self._of([list(part) if isinstance(part, Iterator) else part for part in kept])

    def _note_kind_only(self) -> None:
        things = [thing for thing in self._within if not isinstance(thing, (Mapping, list, tuple, set, frozenset))]
        names = [_name(thing if isinstance(thing, (type, FunctionType)) else type(thing)) for thing in things]
        self.by_kind_only.append(" in ".join(reversed(names)))


def _hash(parts: Iterable[bytes]) -> bytes:
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def _name(kind: Any) -> str:
    name = getattr(kind, "__qualname__", kind.__name__)
    return name if isinstance(kind, ModuleType) else f"{kind.__module__}.{name}"


def _assigned(code: CodeType) -> set[str]:
    """Return the captured variables that a function, or a function inside it, reassigns."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_DEREF"}
    return names.union(*(_assigned(part) for part in code.co_consts if isinstance(part, CodeType))) & {
        *code.co_freevars
    }


def _held(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _tensor(value: torch.Tensor) -> Iterator[bytes]:
    yield f"{value.dtype}{list(value.shape)}".encode()
    flat = value.detach().contiguous().flatten().cpu()
    if flat.numel():
        yield flat.view(torch.uint8).numpy().tobytes()


def _weights(module: nn.Module, originals: Mapping[str, Any] | None = None) -> Iterator[bytes]:
    """Yield the sum of the bits of each row of each weight: seconds faster than hashing gigabytes, on any device."""
    for name, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):
            continue
        if originals and name in originals:
            value = getattr(originals[name], "weight", originals[name])
        yield f"{name}{value.dtype}{list(value.shape)}".encode()
        whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
        if value.numel():
            bits = value.detach().contiguous().view(whole).reshape(len(value) if value.ndim else 1, -1)
            yield bits.sum(1, dtype=torch.int64).cpu().numpy().tobytes()
