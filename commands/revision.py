"""The revision of this program, for metadata and reports."""

import subprocess
from pathlib import Path


def git_revision() -> str:
    """Return the short hash of the checkout that this program runs from, or `unknown`."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
