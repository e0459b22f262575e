"""A small blocking client for ComfyUI's HTTP and WebSocket interface.

It uses aiohttp, which every ComfyUI installation has, on an event loop in a thread of its own, so that it can also be
called where another loop runs (Playwright, notebooks).
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

Event = dict[str, Any]
T = TypeVar("T")
_LAST_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


class PromptError(RuntimeError):
    """The server refused a prompt (unknown node, bad value) or a node raised; `details` is the server's own record."""

    def __init__(self, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.details = details


class PromptInterrupted(RuntimeError):
    """The prompt was interrupted before it ended."""


class ComfyClient:
    """Queues prompts on one server and follows them. Use it as a context manager, or call close()."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="comfy-client", daemon=True)
        self._thread.start()
        self._session, self._socket = self._do(self._connect())

    def __enter__(self) -> ComfyClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; harmless when repeated."""
        if self._loop.is_closed():
            return
        self._do(self._socket.close())
        self._do(self._session.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def object_info(self, node_id: str = "") -> dict[str, Any]:
        """Schemas of all nodes, or of one, as the front end gets them."""
        return self._json("GET", f"/object_info/{node_id}" if node_id else "/object_info")

    def history(self, prompt_id: str) -> dict[str, Any]:
        """The server's record of a finished prompt: `outputs` by node id and `status`; empty while it runs."""
        return self._json("GET", f"/history/{prompt_id}").get(prompt_id, {})

    def system_stats(self) -> dict[str, Any]:
        """Versions and devices of the server: `{"system": {...}, "devices": [...]}`."""
        return self._json("GET", "/system_stats")

    def set_setting(self, name: str, value: Any) -> None:
        """Changes one of the editor's settings, for pages that are opened afterwards."""
        self._bytes("POST", f"/settings/{name}", json=value)

    def interrupt(self) -> None:
        """Stops the prompt that is being executed."""
        self._bytes("POST", "/interrupt", json={})

    def view(self, file: dict[str, str]) -> bytes:
        """Content of a saved file, given as a node's output names it: filename, subfolder, type."""
        return self._bytes("GET", "/view", params={key: file[key] for key in ("filename", "subfolder", "type")})

    def upload(self, path: Path) -> str:
        """Puts a file into ComfyUI's input folder and returns its name there."""
        form = aiohttp.FormData()
        form.add_field("image", path.read_bytes(), filename=path.name)
        return json.loads(self._bytes("POST", "/upload/image", data=form))["name"]

    def queue(self, prompt: dict[str, Any], workflow: dict[str, Any] | None = None) -> str:
        """Queues an API-format prompt and returns its id. `workflow`, the UI graph, goes into the saved files.

        Raises PromptError, with every node's complaint, when validation fails.
        """
        body: dict[str, Any] = {"prompt": prompt, "client_id": self.client_id}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        answer = self._json("POST", "/prompt", json=body)
        if "prompt_id" not in answer:
            raise PromptError(_refusal(prompt, answer), answer)
        return answer["prompt_id"]

    def events(self, prompt_id: str, timeout: float = 600.0) -> Iterator[Event]:
        """Messages `{"type", "data"}` about one prompt, up to and including the one that ends it.

        timeout: seconds to wait for the next message. Raises asyncio.TimeoutError beyond it, ConnectionError when the
        server goes.
        """
        while True:
            message = self._do(self._socket.receive(timeout))
            if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                raise ConnectionError("ComfyUI closed the connection: see its log.")
            if message.type != aiohttp.WSMsgType.TEXT:
                continue  # a preview picture
            event = json.loads(message.data)
            if event.get("data", {}).get("prompt_id") == prompt_id:
                yield event
                if event["type"] in _LAST_EVENTS:
                    return

    def wait(self, prompt_id: str, on_event: Callable[[Event], None] | None = None) -> dict[str, Any]:
        """Follows a queued prompt to its end and returns its outputs by node id.

        Raises PromptError when a node raised, PromptInterrupted when it was stopped.
        """
        last: Event = {}
        for last in self.events(prompt_id):
            if on_event:
                on_event(last)
        if last["type"] == "execution_error":
            data = last["data"]
            raise PromptError(
                f"{data['node_type']}: {data['exception_type']}: {data['exception_message']}".strip(), data
            )
        if last["type"] == "execution_interrupted":
            raise PromptInterrupted(prompt_id)
        return self._finished(prompt_id)["outputs"]

    def run(
        self,
        prompt: dict[str, Any],
        workflow: dict[str, Any] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> dict[str, Any]:
        """queue() and wait() in one."""
        return self.wait(self.queue(prompt, workflow), on_event)

    def _finished(self, prompt_id: str) -> dict[str, Any]:
        """History entry; ComfyUI writes it a moment after the last message."""
        for _ in range(200):
            entry = self.history(prompt_id)
            if entry:
                return entry
            time.sleep(0.05)
        raise ConnectionError(f"ComfyUI ended prompt {prompt_id} but keeps no history of it.")

    async def _connect(self) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse[Any]]:
        # trust_env stays off: a proxy has no business between us and the loopback address
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600))
        try:
            socket = await session.ws_connect(f"{self.url}/ws?clientId={self.client_id}", max_msg_size=0)
        except BaseException:
            await session.close()
            raise
        return session, socket

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _json(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        return json.loads(self._bytes(method, path, **kwargs))

    def _bytes(self, method: str, path: str, **kwargs: Any) -> bytes:
        async def ask() -> bytes:
            async with self._session.request(method, self.url + path, **kwargs) as answer:
                body = await answer.read()
                if answer.status >= 400 and not (answer.status == 400 and path == "/prompt"):
                    raise ConnectionError(f"{method} {path}: {answer.status} {body[:300].decode(errors='replace')}")
                return body

        return self._do(ask())


def _refusal(prompt: dict[str, Any], answer: dict[str, Any]) -> str:
    """One readable message out of a validation answer: the general error, then each node's."""
    error = answer.get("error", {})
    if isinstance(error, str):
        error = {"message": error}
    lines = [": ".join(part for part in (error.get("message", ""), error.get("details", "")) if part)]
    node_errors = answer.get("node_errors") or {}
    for node_id, record in node_errors.items():
        for complaint in record.get("errors", ()):
            name = record.get("class_type") or prompt.get(node_id, {}).get("class_type", "?")
            lines.append(f"  node {node_id} ({name}): {complaint['message']}: {complaint['details']}")
    return "\n".join(lines)
