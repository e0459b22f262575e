"""What is published: the files of the registry's zip, and a use of them without the checkout."""

import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path


def listed(repository: Path, *options: str) -> set[str]:
    """Paths that `git ls-files` lists with these options."""
    command = ["git", "-C", str(repository), "ls-files", "-z", *options]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")) - {""}


def registry_files(repository: Path) -> set[str]:
    """Paths that `comfy node pack` puts into the zip: tracked by git and not matched by a pattern of .comfyignore."""
    return listed(repository) - listed(repository, "--cached", "--ignored", "--exclude-from=.comfyignore")


def copy(repository: Path, paths: set[str], target: Path) -> Path:
    """Copy these files of the repository into a folder; returns the folder."""
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository / path, target / path)
    return target


def use(package: Path, output: Path, verbs: list[list[str]], imports: bool) -> None:
    """Run verbs of the package in this folder and import all its modules if `imports`: in a process without another."""
    sys.stdout = sys.stderr = output.open("w", buffering=1, encoding="utf-8")
    os.chdir(package.parent)
    sys.path.insert(0, str(package.parent))
    # The finder of `pip install -e` would take from the checkout what the folder lacks.
    sys.meta_path[:] = [one for one in sys.meta_path if not getattr(one, "__module__", "").startswith("__editable__")]
    from sdxl_anime_video import __main__ as command

    assert Path(command.__file__).parent == package
    for arguments in verbs:
        assert command.main(arguments) == 0, arguments
    for module in pkgutil.walk_packages([str(package)], "sdxl_anime_video.") if imports else []:
        if not module.name.endswith((".__main__", ".setup")):
            try:
                __import__(module.name)
            except ModuleNotFoundError as error:
                assert error.name.split(".")[0] in ("comfy", "comfy_api", "folder_paths", "node_helpers"), module.name
