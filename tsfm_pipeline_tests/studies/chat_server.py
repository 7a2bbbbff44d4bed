"""A small chat endpoint on this machine, for tests of what asks a language model.

What belongs here: the server, and the ways in which it answers. What does not: what any test
expects.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tsfm_pipeline_tests.http_server import QuietHandler, on_free_port


@dataclass(frozen=True)
class Reply:
    """How the server answers one request: a status, headers and a body, byte by byte with pauses of
    `pause_s` if that is not 0.
    """

    body: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0.0


def said(content: object) -> Reply:
    """A chat completion with this text, or with this object as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    return Reply(json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}))


@dataclass
class Chat:
    """Where it listens, and what it was sent."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)

    @property
    def messages(self) -> list[list[dict[str, str]]]:
        """The messages of every request."""
        found: list[Any] = [json.loads(body)["messages"] for body in self.bodies]
        return found


@contextmanager
def chatting(*replies: Reply) -> Iterator[Chat]:
    """An endpoint that gives these replies one after the other, and the last one from then on."""
    chat, left = Chat(), list(replies)
    closing = threading.Event()

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            chat.paths.append(self.path)
            chat.headers.append({key.lower(): value for key, value in self.headers.items()})
            chat.bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            reply = left.pop(0) if len(left) > 1 else left[0]
            content = reply.body.encode()
            self.send_response(reply.status)
            for key, value in {"Content-Length": str(len(content)), **reply.headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if not reply.pause_s:
                self.wfile.write(content)
                return
            for byte in content:
                if closing.wait(reply.pause_s):
                    return
                try:
                    self.wfile.write(bytes([byte]))
                except OSError:  # the client has gone
                    return

    with on_free_port(Handler) as port:
        chat.url = f"http://127.0.0.1:{port}/v1"
        try:
            yield chat
        finally:
            closing.set()
