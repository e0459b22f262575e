"""The walls of the house: which part may import which, and how."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    *("benchmarks", "commands", "demo", "headless", "media", "nodes"),
    *("rendering", "schedulers", "temporal", "training", "workflows"),
)
TOP = [ROOT / name for name in ("__init__.py", "__main__.py", "files.py")]
FILES = [*TOP, *sorted(f for part in PARTS for f in (ROOT / part).rglob("*.py"))]
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "node_helpers"}

# Who may import whom. A part may always import itself.
GROUND = {"files", "commands", "media", "schedulers"}
ARROWS = {
    "files": set(),
    "commands": {"files"},
    "media": {"files"},
    "schedulers": set(),
    "temporal": {"files", "commands", "demo", "schedulers"},
    "demo": {"files", "media", "temporal", "headless"},
    "headless": {"files"},
    "rendering": {*GROUND, "temporal"},
    "training": {*GROUND, "temporal", "rendering", "demo"},
    "nodes": {*GROUND, "temporal", "demo"},
    "workflows": {"files", "headless"},
    "benchmarks": {*GROUND, "temporal", "rendering", "training", "demo", "headless", "__init__"},
    "__main__": {*GROUND, "temporal", "rendering", "training"},
    "__init__": {"nodes"},
}
STILL_CLIMBS = {
    "commands/overrides.py": {"training"},
    "commands/usage.py": {"training", "rendering"},
    "rendering/kinds.py": {"training"},
    "temporal/hosts/diffusers/base.py": {"training"},
}


def name_of(file):
    return str(file.relative_to(ROOT))


def imports(file):
    """Each import of a file as (dotted name, level, whether it runs when the module is imported)."""
    tree = ast.parse(file.read_text("utf-8"))
    deferred = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, 0, id(node) not in deferred
        elif isinstance(node, ast.ImportFrom):
            for module in [node.module] if node.module else [alias.name for alias in node.names]:
                yield module, node.level, id(node) not in deferred


def part_reached(file, module, level):
    """The part of the package that a relative import of `file` leads to."""
    folder = file.parent
    for _ in range(level - 1):
        folder = folder.parent
    part = (folder / module.replace(".", "/")).relative_to(ROOT).parts[0]
    return part if (ROOT / part).is_dir() or (ROOT / f"{part}.py").is_file() else "__init__"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_follow_the_arrows(file):
    part = file.relative_to(ROOT).parts[0].removesuffix(".py")
    reached = {part_reached(file, module, level).removesuffix(".py") for module, level, _ in imports(file) if level}
    assert reached <= {*ARROWS[part], part, *STILL_CLIMBS.get(name_of(file), ())}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_own_imports_are_relative(file):
    absolute = {module.split(".")[0] for module, level, _ in imports(file) if not level}
    if file.is_relative_to(ROOT / "benchmarks"):
        absolute -= {"nodes"}  # ComfyUI's: programs that bring a ComfyUI into their process
    assert not absolute & {"sdxl_anime_video", *PARTS}


@pytest.mark.parametrize("file", [f for f in FILES if f.is_relative_to(ROOT / "temporal")], ids=name_of)
def test_temporal_knows_its_host_only_under_hosts(file):
    hosts = {"comfy": COMFYUI, "diffusers": {"diffusers", "transformers"}}
    where = file.relative_to(ROOT / "temporal").parts
    allowed = hosts.get(where[1].removesuffix(".py"), set()) if where[0] == "hosts" else set()
    reached = {module.split(".")[0] for module, level, _ in imports(file) if not level}
    assert not reached & (set.union(*hosts.values()) - allowed)


COMFYUI_NAMES = {"transformer_options", "cond_or_uncond", "class_type", "context_window"}
WITHOUT_COMFYUI = ("commands", "media", "rendering", "schedulers", "temporal", "training")


def names_in(file):
    """Each name, attribute, argument and short text in the code of a file."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        for field in ("id", "attr", "arg", "value"):
            if isinstance(name := getattr(node, field, None), str):
                yield name


@pytest.mark.parametrize(
    "file",
    [f for f in FILES if f.relative_to(ROOT).parts[0] in WITHOUT_COMFYUI and "hosts" not in f.parts],
    ids=name_of,
)
def test_names_of_comfyui_stand_only_under_hosts(file):
    assert not COMFYUI_NAMES & set(names_in(file))


def test_only_one_file_imports_the_node_api():
    users = [name_of(file) for file in FILES for module, *_ in imports(file) if module.startswith("comfy_api")]
    assert set(users) == {"nodes/_api.py"}


@pytest.mark.parametrize("file", [f for f in FILES if f.is_relative_to(ROOT / "nodes")], ids=name_of)
def test_nodes_hold_no_heavy_import(file):
    heavy = {"av", "controlnet_aux", "cv2", "diffusers", "transformers"}
    assert not {module.split(".")[0] for module, level, at_import in imports(file) if at_import and not level} & heavy


def test_root_imports_nothing():
    assert not [module for module, _, at_import in imports(ROOT / "__init__.py") if at_import]


def test_every_package_is_installed():
    listed = re.findall(r'"(sdxl_anime_video[\w.]*)",', (ROOT / "pyproject.toml").read_text("utf-8"))
    folders = [file.parent.relative_to(ROOT).parts for file in FILES if file.name == "__init__.py"]
    assert sorted(".".join(["sdxl_anime_video", *parts]) for parts in folders) == sorted(listed)
