"""What is published: the files of the registry's zip."""

import shutil
import subprocess
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
