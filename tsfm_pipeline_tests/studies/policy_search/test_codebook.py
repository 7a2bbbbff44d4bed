"""Test the codebook of the study's tables: the page is the generated one, and explains every column.

What belongs here: the study's page. What does not: the fleets' (`reports.page.test_codebook`).
"""

from tsfm_pipeline.reports.page.codebook import column_meaning, shown_columns
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline.studies.policy_search.codebook import codebook_markdown
from tsfm_pipeline.studies.policy_search.tables import FORECASTS, TABLES

PAGE = PROJECT_ROOT / "docs" / "policy-search-tables.md"


def test_the_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == codebook_markdown(), (
        "python -m tsfm_pipeline.studies.policy_search.codebook > docs/policy-search-tables.md"
    )


def test_every_column_says_what_it_is() -> None:
    page = codebook_markdown()
    for table in TABLES.values():
        assert f"#### {table.name}\n\nOne row per {table.row}." in page
        for name, column in shown_columns(table).items():
            dtype, _, meaning = column_meaning(column)
            assert meaning, name
            assert f"| `{name}` | {dtype} |" in page
    assert column_meaning(shown_columns(TABLES[FORECASTS])["decision_premium"])[0] == "H Float32"
