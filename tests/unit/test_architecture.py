"""The walls of the house: which room may import which, no circle of files, and where heavy imports may stand."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Who may import whom, from the ground floor up. A name is that of a file or of a folder; one that has no line of
# its own stands for all rooms in it. A room may import itself. Imports inside functions and for annotations count.
ARROWS = {
    "files": "",
    "schedulers": "",
    "commands": "files",
    "media": "files",
    "temporal/clip": "",
    "temporal/measure": "media",
    "temporal/layers": "",
    "temporal/weights": "files commands temporal/layers",
    "temporal/lora": "files temporal/weights",
    "headless": "files",
    "demo": "files media temporal/measure temporal/layers temporal/weights",
    "temporal/hosts/comfy": "files media schedulers temporal/clip temporal/layers temporal/weights temporal/lora",
    "temporal/hosts/diffusers": "commands schedulers demo temporal/clip temporal/layers temporal/weights",
    "demo/run": "files media temporal/measure headless rendering demo",
    "workflows": "files headless",
    "rendering": "files commands media schedulers temporal",
    "training/config": "commands temporal/clip",
    "training/clips": "files commands media temporal",
    "training/step": "files commands media temporal demo training/config training/clips",
    "training/prepare": "files commands media temporal training/clips",
    "training/run": "files commands media temporal rendering training/config training/clips training/step",
    "nodes": "files media schedulers temporal demo",
    "__init__": "nodes",
    "__main__": "commands rendering temporal/weights training",
    "benchmarks": "files commands media schedulers temporal demo headless rendering training __init__",
}
PARTS = sorted({room.split("/")[0] for room in ARROWS})
FILES = sorted(file for part in PARTS for file in (*ROOT.glob(f"{part}.py"), *ROOT.glob(f"{part}/**/*.py")))
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "node_helpers"}


def name_of(file):
    return file.relative_to(ROOT).as_posix()


def imports(file):
    """Each import of a file as (dotted name, level, names, whether it runs when the module is imported)."""
    tree = ast.parse(file.read_text("utf-8"))
    deferred = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names = [alias.name for alias in getattr(node, "names", ()) if isinstance(alias, ast.alias)]
        if isinstance(node, ast.Import):
            for name in names:
                yield name, 0, [], id(node) not in deferred
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level, names, id(node) not in deferred


IMPORTS = {file: list(imports(file)) for file in FILES}


def reached(file):
    """Files of the package that a file imports, wherever in it the import stands."""
    for module, level, names, _ in IMPORTS[file]:
        if not level:
            continue
        target = file.parents[level - 1] / module.replace(".", "/")
        for name in names:
            inside = (target / f"{name}.py", target / name / "__init__.py")
            yield next(
                found for found in (*inside, target.with_suffix(".py"), target / "__init__.py") if found.exists()
            )


EDGES = {file: set(reached(file)) - {file} for file in FILES}


def room_of(file):
    """The smallest room that holds a file."""
    path = Path(name_of(file)).with_suffix("")
    return next((room for room in map(Path.as_posix, (path, *path.parents)) if room in ARROWS), path.parts[0])


def rooms(names):
    """The rooms of a line of ARROWS: a folder that has no line of its own stands for all in it."""
    listed = names.split()
    groups = tuple(f"{name}/" for name in listed if name not in ARROWS)
    return {room for room in ARROWS if room in listed or room.startswith(groups)}


def circles(edges):
    """The groups whose members all reach each other (Tarjan's strongly connected components)."""
    number, lowest, stack, found = {}, {}, [], []

    def visit(here):
        number[here] = lowest[here] = len(number)
        stack.append(here)
        for there in edges[here]:
            if there not in number:
                visit(there)
            if there in stack:
                lowest[here] = min(lowest[here], lowest[there])
        if lowest[here] == number[here]:
            group = {stack.pop()}
            while here not in group:
                group.add(stack.pop())
            if len(group) > 1:
                found.append(group)

    for here in edges:
        if here not in number:
            visit(here)
    return found


def test_imports_follow_the_arrows():
    climbs = []
    for file in FILES:
        room, name = room_of(file), name_of(file)
        allowed = {room} | rooms(ARROWS.get(room, ""))
        climbs += [f"{name} -> {name_of(there)}" for there in EDGES[file] if room_of(there) not in allowed]
    assert not climbs


def test_no_circle_of_files():
    found = [{name_of(file) for file in group} for group in circles(EDGES)]
    assert not found


def test_no_circle_of_rooms():
    assert not circles({room: rooms(arrows) for room, arrows in ARROWS.items()})


def outside(file, at_import=False):
    """Packages that a file imports from outside, or only those that it imports when it is imported itself."""
    return {module.split(".")[0] for module, level, _, early in IMPORTS[file] if not level and (early or not at_import)}


def test_own_imports_are_relative():
    for file in FILES:
        own = outside(file) & {"sdxl_anime_video", *PARTS}
        if room_of(file) == "benchmarks":
            own -= {"nodes"}  # ComfyUI's: programs that bring a ComfyUI into their process
        assert not own, file


def test_temporal_knows_its_host_only_under_hosts():
    hosts = {"comfy": COMFYUI, "diffusers": {"diffusers", "transformers"}}
    wrong = []
    for file in FILES:
        part, *where = file.relative_to(ROOT).parts
        if part == "temporal":
            allowed = hosts.get(where[1].removesuffix(".py"), set()) if where[0] == "hosts" else set()
            wrong += [f"{name_of(file)}: {name}" for name in outside(file) & (set.union(*hosts.values()) - allowed)]
    assert not wrong


COMFYUI_NAMES = {"transformer_options", "cond_or_uncond", "class_type", "context_window"}
WITHOUT_COMFYUI = {"commands", "media", "rendering", "schedulers", "temporal", "training"}


def names_in(file):
    """Each name, attribute, argument and short text in the code of a file."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        for field in ("id", "attr", "arg", "value"):
            if isinstance(name := getattr(node, field, None), str):
                yield name


def test_names_of_comfyui_stand_only_under_hosts():
    files = [file for file in FILES if room_of(file).split("/")[0] in WITHOUT_COMFYUI and "hosts" not in file.parts]
    assert not [name_of(file) for file in files if COMFYUI_NAMES & set(names_in(file))]


def test_only_one_file_imports_the_node_api():
    assert [name_of(file) for file in FILES if "comfy_api" in outside(file)] == ["nodes/_api.py"]


def test_nodes_hold_no_heavy_import():
    heavy = {"av", "controlnet_aux", "cv2", "diffusers", "transformers"}
    nodes = [file for file in FILES if room_of(file) == "nodes"]
    assert not [name_of(file) for file in nodes if outside(file, at_import=True) & heavy]


def test_root_imports_nothing():
    assert not [module for module, _, _, at_import in IMPORTS[ROOT / "__init__.py"] if at_import]
