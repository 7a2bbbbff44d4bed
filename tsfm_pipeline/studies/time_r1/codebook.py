"""The generated codebook of the study's tables (docs/time-r1-tables.md).

What belongs here: the page's opening. What does not: the meanings (`tables`, `measures`), and
turning them into markdown (`reports.page.codebook`).

    python -m tsfm_pipeline.studies.time_r1.codebook > docs/time-r1-tables.md
"""

from tsfm_pipeline.reports.page.codebook import tables_markdown
from tsfm_pipeline.studies.time_r1.tables import TABLES

OPENING = """\
# Codebook of the study time_r1

These tables hold everything about one recipe. They lie in `data/lake/.recipe/<recipe>/<table>/`;
`tsfm-pipeline time-r1 run` makes them. The way of a window, rewards and GRIP are on
[the study's page](time-r1.md).

"""


def codebook_markdown() -> str:
    """Return the whole page."""
    return OPENING + "\n".join(tables_markdown(TABLES)).rstrip() + "\n"


if __name__ == "__main__":
    print(codebook_markdown(), end="")
