"""Test the texts of the study: `program.md` and `NOTICE.md`.

What belongs here: that they agree with the code. What does not: the wheel that holds them
(`test_distribution`).
"""

import re

import pytest

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search import program, space
from tsfm_pipeline.studies.policy_search.ledger import SCHEMA, Ledger
from tsfm_pipeline.studies.policy_search.policy import parsed_policy
from tsfm_pipeline.studies.policy_search.promotion_records import PromotionRecords
from tsfm_pipeline.studies.policy_search.report.page import report_folder


def test_the_table_of_fields_is_the_one_that_the_command_writes() -> None:
    assert program.text() == program.with_table(program.text()), (
        "run python -m tsfm_pipeline.studies.policy_search.program"
    )
    assert all(f"\n| `{field.name}` | " in program.text() for field in space.FIELDS)


def test_a_program_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        program.with_table("# Program\n")


def test_the_policy_of_the_program_is_one() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", program.text(), re.DOTALL)
    policy = parsed_policy(example, "program.md")
    assert policy.n_changes == 3
    space.require_allowed(policy)


def test_the_program_names_every_column_and_every_field_that_may_not_change() -> None:
    named = set(re.findall(r"`([a-z_0-9]+)`", program.text()))
    limits = {name for name in SCHEMA if name.endswith(("_low", "_high"))}
    assert set(SCHEMA) - limits - {"fleets", "outcome", "yardstick"} <= named
    assert set(space.NOT_SEARCHED) <= named


def test_the_program_says_what_a_driver_must_not_read() -> None:
    (section,) = re.findall(r"## What you may not read\n(.*?)\n## ", program.text(), re.DOTALL)
    kept = PromotionRecords(Settings()).folder
    reports = report_folder(Settings()).relative_to(Settings().data_dir.parent).as_posix()
    for place in (reports, "promotions", "final_looks", "confirmed", "gains"):
        assert f"`{place}`" in section
    assert kept == Ledger(Settings()).folder


def test_the_program_names_the_place_of_the_ledger() -> None:
    folder = Settings().records_dir.relative_to(Settings().data_dir.parent)
    assert f"`{folder}/.policy_search/results.tsv`" in program.text()


def test_the_notice_names_the_sources_and_their_licences() -> None:
    notice = program.PATH.with_name("NOTICE.md").read_text(encoding="utf-8")
    for project in (
        "karpathy/autoresearch",
        "trevin-creator/autoresearch-mlx",
        "zd87pl/tsfm-autoresearch",
    ):
        assert f"| [{project}](https://github.com/{project}) | MIT |" in notice
