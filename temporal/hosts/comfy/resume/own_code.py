"""A digest of the code in this pack that latents depend on, without comments and docstrings."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACK = Path(__file__).resolve().parents[4]
_COMFY = "temporal/hosts/comfy"
SAMPLING = (*(f"{_COMFY}/{room}/*.py" for room in ("sampling", "layers", "conditioning")), "schedulers/comfy.py")
"""Files that ComfyUI calls while it samples. They count, and all that they import, directly or not."""
OUTSIDE = ("temporal/weights", f"{_COMFY}/resume")
"""How weights are read and how runs are compared: the weights and the runs are compared themselves."""


@cache
def own_code(pack: Path = PACK) -> str:
    """Return a digest of the sampling code in a copy of this pack."""
    found = {}
    waiting = [file for pattern in SAMPLING for file in pack.glob(pattern)]
    while waiting:
        file = waiting.pop()
        name = file.relative_to(pack).as_posix()
        if name not in found and not name.startswith(OUTSIDE):
            tree = ast.parse(file.read_bytes())
            waiting += _imported(tree, file)
            found[name] = ast.dump(_WithoutDocstrings().visit(tree))
    return hashlib.blake2b(repr(sorted(found.items())).encode(), digest_size=16).hexdigest()


def _imported(tree: ast.AST, file: Path) -> Iterator[Path]:
    """Files of the pack that a file imports, inside functions or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            paths = [folder, *(folder / alias.name for alias in node.names)]
            yield from (path.with_suffix(".py") for path in paths if path.with_suffix(".py").is_file())


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node
