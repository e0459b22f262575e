"""Makes the virtual environment that the Makefile's targets run in: Python packages, this package and a ComfyUI.

    python3 scripts/set_up.py [--venv .venv] [--tests]

Standard library only. A finished set-up leaves a stamp, so a second run returns at once; an interrupted one is simply
continued, because every step can be repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
FINDER = ROOT / "headless" / "comfyui.py"
STAMP = "set-up.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--tests", action="store_true", help="also what tests and linting need")
    options = parser.parse_args()
    if sys.version_info < (3, 10):
        parser.error(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}; name another with PYTHON=")
    try:
        set_up(options.venv.absolute(), options.tests)
    except subprocess.CalledProcessError as error:
        say(f"set-up failed: `{' '.join(map(str, error.cmd))}` ended with status {error.returncode}")
        return 1
    except KeyboardInterrupt:
        say("set-up interrupted; the same command goes on with it")
        return 130
    return 0


def set_up(venv: Path, tests: bool) -> None:
    """Creates or completes `venv`. Raises CalledProcessError with the step that failed."""
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    files = [ROOT / "requirements.txt"]
    if tests:
        files += [ROOT / "requirements-training.txt", ROOT / "requirements-test.txt"]
    if not works(python):
        say(f"Creating {venv} with Python {sys.version.split()[0]}")
        create(venv, python)
    comfyui = Path(subprocess.check_output([python, FINDER], text=True).strip())
    files.append(comfyui / "requirements.txt")

    stamp = venv / STAMP
    wanted = {
        "comfyui": str(comfyui),
        "files": {str(file): digest(file) for file in (*files, CONSTRAINTS, ROOT / "pyproject.toml", Path(__file__))},
    }
    if covers(stamp, wanted):
        return
    say(f"Installing packages into {venv} (some minutes and gigabytes the first time)")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--progress-bar=off"]
    pip += ["-c", CONSTRAINTS]
    requirements = [word for file in files for word in ("-r", file)]
    # 0.3.75 uses requests without listing it
    subprocess.run([*pip, "setuptools", "requests", *requirements], check=True)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "-e", ROOT], check=True)
    stamp.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    say(f"Ready: Python packages in {venv}, ComfyUI in {comfyui}")


def create(venv: Path, python: Path) -> None:
    """A fresh virtual environment with pip, also where the system's Python lacks ensurepip (Debian's python3)."""
    shutil.rmtree(venv, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", venv], capture_output=True, text=True, check=False)
    if made.returncode or not works(python):
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", venv], check=True)
        subprocess.run([sys.executable, "-m", "pip", "--python", venv, "install", "--quiet", "pip"], check=True)


def works(python: Path) -> bool:
    """Whether this interpreter starts and has pip."""
    try:
        return not subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode
    except OSError:
        return False


def covers(stamp: Path, wanted: dict) -> bool:
    """Whether a finished set-up had at least these files, unchanged, and the same ComfyUI."""
    try:
        done = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return done["comfyui"] == wanted["comfyui"] and wanted["files"].items() <= done["files"].items()


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def say(message: str) -> None:
    sys.stderr.write(message + "\n")


if __name__ == "__main__":
    sys.exit(main())
