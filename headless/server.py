"""A real ComfyUI server as a context manager: headless, on a free loopback port, in a folder of its own.

    with ComfyServer(comfy_dir, flags=["--cpu"]) as server:
        client = ComfyClient(server.url)

The server sees our pack and nothing else: its base directory (models, custom_nodes, input, output, temp, user) is a
fresh temporary folder that goes away with it, so neither the user's ComfyUI nor its settings are touched.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from .comfyui import PACK_ROOT

PACK_FOLDER = "sdxl-anime-video"

# Wanted on every version that knows them; a version that does not simply starts without.
_WANTED_FLAGS = {
    "--disable-api-nodes": (),
    "--disable-auto-launch": (),
    "--database-url": ("sqlite:///{base}/comfyui.db",),  # in memory, threads complain of each other's connections
    "--preview-method": ("none",),
}
_FAULT = re.compile(r"\b\w*(?:Exception|Error)\b|^Traceback|IMPORT FAILED|\[ERROR\]")


class ServerError(RuntimeError):
    """The server did not start or died; the message ends with the last lines of its log."""


@lru_cache
def known_flags(comfy_dir: Path, python: str = sys.executable) -> frozenset[str]:
    """The long options that this ComfyUI's own `main.py --help` lists."""
    shown = subprocess.run(
        [python, "main.py", "--help"], cwd=comfy_dir, capture_output=True, text=True, timeout=120, check=False
    )
    if shown.returncode:
        raise ServerError(f"{comfy_dir}/main.py --help failed:\n{shown.stderr[-2000:]}")
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", shown.stdout))


def device_flags() -> list[str]:
    """What ComfyUI must be told on a machine without a GPU: it does not find out by itself."""
    import torch

    return [] if torch.cuda.is_available() else ["--cpu"]


def log_faults(log: str) -> list[str]:
    """The lines of a server log that tell of an exception or an error."""
    return [line for line in log.splitlines() if _FAULT.search(line)]


@dataclass(eq=False)
class ComfyServer:
    """One ComfyUI process.

    comfy_dir: folder with ComfyUI's main.py.
    flags: extra command-line flags (`--cpu`, `--cache-none`); each is checked against this version's `--help`.
    model_files: model folder name -> files shown in it, e.g. {"checkpoints": [Path("/models/sdxl.safetensors")]}.
    env: variables added to the server's environment.
    log_path: where the log is kept; by default inside the base directory, which is removed on stop.
    Raises ServerError when the server does not come up within `start_timeout` seconds.
    """

    comfy_dir: Path
    flags: Sequence[str] = ()
    model_files: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    log_path: Path | None = None
    python: str = sys.executable
    start_timeout: float = 180.0
    base: Path = field(default=Path(), init=False)
    port: int = field(default=0, init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> Path:
        """ComfyUI's output folder while the server lives."""
        return self.base / "output"

    def log(self) -> str:
        """Everything that the server has written so far."""
        path = self.log_path
        return path.read_text(encoding="utf-8", errors="replace") if path and path.is_file() else ""

    def __enter__(self) -> ComfyServer:
        try:
            self._prepare_base()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server and all that it started, then removes its folder. Harmless when repeated.

        Killed rather than asked: ComfyUI lets a running step end first, and all that it could still write is removed.
        """
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):  # the group is already empty
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self.base != Path():
            shutil.rmtree(self.base, ignore_errors=True)

    def _prepare_base(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="sav-comfy-"))
        for name in ("models", "custom_nodes", "input", "output", "temp", "user"):
            (self.base / name).mkdir()
        (self.base / "custom_nodes" / PACK_FOLDER).symlink_to(PACK_ROOT, target_is_directory=True)
        for folder, files in self.model_files.items():
            target = self.base / "models" / folder
            target.mkdir(parents=True, exist_ok=True)
            for file in files:
                (target / file.name).symlink_to(Path(file).resolve(strict=True))
        self.log_path = self.log_path or self.base / "comfyui.log"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)

    def _start(self) -> None:
        for _ in range(3):  # another program may take the port between our look and ComfyUI's bind
            self.port = _free_port()
            with self.log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    self._command(),
                    cwd=self.comfy_dir,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **self.env},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # its own process group: nothing that it starts can outlive stop()
                )
            if self._wait_until_ready():
                return
            if "address already in use" not in self.log():
                break
        raise ServerError(f"ComfyUI at {self.comfy_dir} did not start. End of its log:\n{self.log()[-4000:]}")

    def _command(self) -> list[str]:
        known = known_flags(self.comfy_dir, self.python)
        unknown = [flag for flag in self.flags if flag.startswith("--") and flag not in known]
        if unknown:
            raise ServerError(f"ComfyUI at {self.comfy_dir} does not know {', '.join(unknown)}; see main.py --help.")
        command = [self.python, "main.py", "--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--base-directory", str(self.base)]
        for flag, values in _WANTED_FLAGS.items():
            if flag in known and flag not in self.flags:
                command += [flag, *(value.format(base=self.base) for value in values)]
        return [*command, *self.flags]

    def _wait_until_ready(self) -> bool:
        """True once HTTP answers; False when the process ended or the time is up."""
        assert self._process is not None
        deadline = time.monotonic() + self.start_timeout
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5):
                    return True
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
