"""`python -m tsfm_pipeline.cli`: the same as `tsfm-pipeline`; nothing else belongs here."""

from tsfm_pipeline.cli.app import app

app(prog_name="tsfm-pipeline")
