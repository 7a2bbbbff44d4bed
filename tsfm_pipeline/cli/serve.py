"""`tsfm-pipeline serve`: the online service.

What belongs here: the command's options, its settings from options, environment and file, and what
it says at the start. What does not: the service (`serving`).
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsfm_pipeline.cli.screen import alarm, plain_errors, refuse

if TYPE_CHECKING:
    from tsfm_pipeline.serving.settings import ServingSettings

NEEDED = ("cachetools", "fastapi", "prometheus_client", "uvicorn")
"""Modules of the extra `serving` without which there is no service."""
CURL = """\
{url} answers. A first forecast:

  curl -s {url}/tsfm/forecast {auth}-H 'Content-Type: application/json' -d '{body}'

The service's state and a form to try it: {url}/"""


def serve(
    fleet: Annotated[
        str | None, typer.Option(help="serve the search of this fleet, which must have been run")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="serve the search in this file: a run's search.bundle"),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="address to listen on (default: 127.0.0.1)")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="port to listen on; 0: any free one (default: 8000)"),
    ] = None,
    no_auth: Annotated[
        bool,
        typer.Option("--no-auth", help="let every caller in; only on a loopback address"),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of settings, with the keys of docs/serving-settings.md; environment "
            "variables and options outrank it"
        ),
    ] = None,
) -> None:
    """Answer forecasts over HTTP. Without --fleet or --bundle: plain quantiles of the bundled
    model.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        refuse(
            f"{', '.join(missing)} not installed; install the extra: "
            "pip install 'tsfm-pipeline[serving]'"
        )
    with plain_errors():
        from tsfm_pipeline.serving.config_file import read_settings

        given = {"fleet": fleet, "bundle": bundle, "host": host, "port": port}
        settings = read_settings(
            config, {name: value for name, value in given.items() if value is not None}
        )
        _run(settings, no_auth=no_auth)


def _run(settings: "ServingSettings", *, no_auth: bool) -> None:
    from tsfm_pipeline.serving.app import EXAMPLE
    from tsfm_pipeline.serving.build import build
    from tsfm_pipeline.serving.licences import ModelNotAllowed
    from tsfm_pipeline.serving.logs import configure_logging
    from tsfm_pipeline.serving.server import (
        Server,
        allow_many_connections,
        keep_what_is_loaded,
        listening,
        url_of,
    )

    try:
        service = build(settings, no_auth=no_auth)
    except ModelNotAllowed as error:
        refuse(str(error))
    allow_many_connections()
    listener = listening(settings.host, settings.port)
    configure_logging()
    server = Server(service.app, service.gate, settings.drain_s)

    def ready() -> None:
        keep_what_is_loaded()
        auth = "" if no_auth else '-H "Authorization: Bearer $TSFM_SERVING_TOKEN" '
        alarm(CURL.format(url=url_of(listener), auth=auth, body=json.dumps(EXAMPLE)))

    service.on_ready, service.on_failure = ready, server.stop
    alarm(f"loading the model; {url_of(listener)} answers by a baseline until it is there")
    server.run(sockets=[listener])
    if service.problem is not None:
        raise ValueError(service.problem)
