"""`tsfm-pipeline tollama-runner`: our model behind a tollama daemon.

What belongs here: the command's options. What does not: the runner (`serving.tollama_runner`).
"""

import json
from typing import Annotated

import typer

from tsfm_pipeline.cli.screen import plain_errors


def tollama_runner(
    checkpoint: Annotated[
        str, typer.Option(help="registry name or local directory of the model")
    ] = "bundled",
    manifest: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="print the manifest.json by which a daemon knows the model under this name, and "
            "start nothing",
        ),
    ] = None,
) -> None:
    """Answer a tollama daemon over pipes with our model. The daemon starts this command; see
    docs/serving-tollama.md.
    """
    with plain_errors():
        from tsfm_pipeline.serving import tollama_runner as runner

        if manifest is not None:
            typer.echo(json.dumps(runner.manifest(manifest, checkpoint), indent=2))
            return
        out = runner.take_over_stdout()

        from tsfm_pipeline.forecaster.allocator import keep_large_buffers

        keep_large_buffers()
        runner.serve(checkpoint, out=out)
