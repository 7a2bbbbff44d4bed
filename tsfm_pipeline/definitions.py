"""The Dagster entry point: it builds one `Definitions` from the settings. Nothing else belongs
here.

dagster asset materialize -m tsfm_pipeline.definitions --select '*' --partition demo
"""

from tsfm_pipeline.defs.build import build_definitions
from tsfm_pipeline.settings import Settings

defs = build_definitions(Settings())
