"""The generated codebook of the study's tables (docs/direction-tables.md).

What belongs here: the page's opening. What does not: the meanings (`tables`, `measures`), and
turning them into markdown (`reports.page.codebook`).

    python -m tsfm_pipeline.studies.direction.codebook > docs/direction-tables.md
"""

from tsfm_pipeline.reports.page.codebook import tables_markdown
from tsfm_pipeline.studies.direction.tables import TABLES

OPENING = """\
# Codebook of the study direction

These tables hold everything about one market. They lie in `data/lake/.market/<market>/<table>/`;
`tsfm-pipeline market run` makes them. What the labels, features and scorers are stands in
[the study's page](direction.md).

"""


def codebook_markdown() -> str:
    """Return the whole page."""
    return OPENING + "\n".join(tables_markdown(TABLES)).rstrip() + "\n"


if __name__ == "__main__":
    print(codebook_markdown(), end="")
