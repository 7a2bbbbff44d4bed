"""Receive alerts in a small HTTP server, for tests of what posts them.

What belongs here: the server. What does not: what any test expects.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tsfm_pipeline_tests.http_server import QuietHandler, on_free_port

SECRET = "T0K3N"


@dataclass
class Webhook:
    """Where it listens, and the JSON bodies that it was sent."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def listening(statuses: Sequence[int] = ()) -> Iterator[Webhook]:
    """A webhook that answers with these statuses one after the other, and with 200 from then on;
    its address holds a secret.
    """
    webhook, answers = Webhook(), iter(statuses)

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            webhook.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(next(answers, 200))
            self.send_header("Content-Length", "0")
            self.end_headers()

    with on_free_port(Handler) as port:
        webhook.url = f"http://127.0.0.1:{port}/hooks/{SECRET}"
        yield webhook
