"""The generated codebook of the study's tables (docs/policy-search-tables.md).

What belongs here: the page's opening. What does not: the meanings (`tables`), and turning them into
markdown (`reports.page.codebook`).

    python -m tsfm_pipeline.studies.policy_search.codebook > docs/policy-search-tables.md
"""

from tsfm_pipeline.reports.page.codebook import tables_markdown
from tsfm_pipeline.studies.policy_search.tables import MOST_REQUESTS, TABLES

OPENING = f"""\
# Codebook of the study policy_search

These tables hold everything that an experiment of the study reads. They lie in
`data/lake/.policy_search/<fleet>/<table>/`, and `tsfm-pipeline policy-search prepare` makes them.
Their rows are tuning requests only, of at most {MOST_REQUESTS:,} requests per fleet; of a fleet
with more, a seeded draw of whole tenants is used. The record `_table.json` of each table says what
was drawn, and names the candidates and the validation origins in their order.

H: steps of the horizon. J: validation origins. F: features. Values are in the units of the metric
unless a column says otherwise. The copies of `forecast_requests` and `request_targets` beside these
tables are described in the [codebook](codebook.md) of the fleets' tables.

"""


def codebook_markdown() -> str:
    """Return the whole page."""
    return OPENING + "\n".join(tables_markdown(TABLES)).rstrip() + "\n"


if __name__ == "__main__":
    print(codebook_markdown(), end="")
