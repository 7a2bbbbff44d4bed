"""Test the policy file: where it is looked for, which sources outweigh it, and what is refused."""

import os
from pathlib import Path

import pytest
import yaml

from tsfm_pipeline import policy_file
from tsfm_pipeline.policy_file import PolicyFileError, read_policy_file
from tsfm_pipeline.settings import PROJECT_ROOT, SearchSettings, Settings
from tsfm_pipeline.studies.policy_search.policy import policy_of

DEFAULT = SearchSettings()
SEARCH = {"neighbours": 9, "portfolio_size": 6, "gate_coefficients": {"fleet": -1.0}}


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A distribution whose data folder is the test's own; no settings of the caller."""
    for name in [name for name in os.environ if name.startswith("TSFM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(policy_file, "packaged", lambda path: tmp_path / "distribution" / path)
    return tmp_path / "distribution" / "data"


def write(folder: Path, search: object = SEARCH, **sections: object) -> Path:
    """A policy file in a data folder."""
    path = folder / "policies" / "search.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump({"search": search, **sections}))
    return path


def test_without_a_file_the_defaults_count(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.search == DEFAULT
    assert settings.policy is None


def test_fields_that_a_file_does_not_name_keep_their_defaults(tmp_path: Path) -> None:
    write(tmp_path)
    assert Settings(data_dir=tmp_path).search == SearchSettings(**SEARCH)


def test_the_own_file_counts_and_else_that_of_the_distribution(
    tmp_path: Path, shipped: Path
) -> None:
    theirs = write(shipped, {"neighbours": 7})
    settings = Settings(data_dir=tmp_path)
    assert settings.policy is not None
    assert (settings.policy.path, settings.search.neighbours) == (theirs, 7)
    own = write(tmp_path, {"portfolio_size": 6})
    settings = Settings(data_dir=tmp_path)
    assert settings.policy is not None
    assert settings.policy.path == own
    assert (settings.search.neighbours, settings.search.portfolio_size) == (5, 6)


def test_the_environment_outweighs_the_file_field_by_field_and_the_caller_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    monkeypatch.setenv("TSFM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TSFM_SEARCH__NEIGHBOURS", "3")
    search = Settings().search
    assert (search.neighbours, search.portfolio_size) == (3, 6)
    search = Settings(search={"portfolio_size": 2}).search
    assert (search.neighbours, search.portfolio_size) == (3, 2)
    assert search.gate_coefficients == {"fleet": -1.0}
    assert Settings(search=SearchSettings(neighbours=4)).search == SearchSettings(neighbours=4)


def test_a_field_is_taken_whole_from_one_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    monkeypatch.setenv("TSFM_SEARCH__GATE_COEFFICIENTS", '{"spread": -2}')
    assert Settings(data_dir=tmp_path).search.gate_coefficients == {"spread": -2.0}


def test_settings_that_a_step_is_given_are_not_changed_by_a_later_file(tmp_path: Path) -> None:
    given = Settings(data_dir=tmp_path).model_dump()
    file = write(tmp_path)
    assert Settings.model_validate(given).search == DEFAULT
    file.write_text("search: {")
    assert Settings.model_validate(given).search == DEFAULT


def test_another_file_may_be_named_and_none_reads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    other = write(tmp_path / "other", {"neighbours": 8})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TSFM_DATA_DIR", ".")
    assert Settings().search.neighbours == 9
    monkeypatch.setenv("TSFM_POLICY_FILE", str(other.relative_to(tmp_path)))
    settings = Settings()
    assert (settings.policy_file, settings.search.neighbours) == (other, 8)
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    monkeypatch.setenv("TSFM_POLICY_FILE", "none")
    settings = Settings()
    assert (settings.search, settings.policy) == (DEFAULT, None)
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    monkeypatch.setenv("TSFM_POLICY_FILE", "absent.yaml")
    with pytest.raises(PolicyFileError, match=r"absent\.yaml cannot be read"):
        Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search: {neighbors: 3}", r"field 'search\.neighbors' is unknown; allowed: candidates, "),
        ("search: {neighbours: 0}", r"field 'search\.neighbours': got 0: .*greater than or equal"),
        ("search: {rules: [best, gate]}", r"field 'search\.rules': .*allowed: argmin, "),
        ("search: {rules: [argmin]}", r"field 'search': .*declared_rule .*allowed: argmin"),
        ("neighbours: 3", "must have the key `search`"),
        ("search: {}\nevaluation: {}", "nothing else is allowed"),
        ("search: [neighbours]", "must have the key `search` with fields and values"),
        ("search: {}\nprovenance: nobody", "`provenance` with names and values"),
        ("search: {", "cannot be read as YAML"),
        ("", "must have the key `search`"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_the_field_and_what_is_allowed(
    tmp_path: Path, text: str, message: str
) -> None:
    path = write(tmp_path)
    path.write_text(text)
    with pytest.raises(PolicyFileError, match=message) as refused:
        Settings(data_dir=tmp_path)
    assert str(path) in str(refused.value)


def test_since_when_is_what_the_provenance_says_and_else_the_time_of_the_file(
    tmp_path: Path,
) -> None:
    said = write(tmp_path / "said", provenance={"time": "2026-11-28T22:00:00+00:00", "by": [1]})
    assert read_policy_file(said).since == "2026-11-28T22:00:00+00:00"
    assert read_policy_file(said).provenance["by"] == [1]
    said.write_text("search: {}\nprovenance: {time: 2026-11-28T22:00:00Z}")
    assert read_policy_file(said).since == "2026-11-28T22:00:00+00:00"
    silent = write(tmp_path / "silent")
    os.utime(silent, (0, 0))
    assert read_policy_file(silent).since == "1970-01-01T00:00:00+00:00"


def test_a_policy_has_the_name_that_the_study_gives_it(tmp_path: Path) -> None:
    search = {**SEARCH, "neighbours": DEFAULT.neighbours}
    policy = read_policy_file(write(tmp_path, search))
    assert policy.digest == policy_of(SEARCH | {"neighbours": 5}).digest
    assert sorted(policy.changes) == ["gate_coefficients", "portfolio_size"]


def test_a_file_written_by_the_study_can_be_adopted_as_it_is(tmp_path: Path) -> None:
    found = policy_of({"half_lives": [float("inf"), 3.0], "token_budget": 4_000})
    path = write(tmp_path)
    path.write_text(found.to_yaml())
    settings = Settings(data_dir=tmp_path)
    assert settings.search == found.settings
    assert settings.policy is not None
    assert settings.policy.digest == found.digest
    assert settings.policy.changes == {"half_lives": ["Infinity", 3.0], "token_budget": 4_000}


def test_the_file_on_the_page_about_operating_is_one(tmp_path: Path) -> None:
    text = (PROJECT_ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    section = text.split("## The policy in force")[1]
    path = write(tmp_path)
    path.write_text(section.split("```yaml")[1].split("```")[0])
    policy = read_policy_file(path)
    assert policy.changes == {"gate_ridge": 1.0, "daily_origins": [1, 2, 7]}
    assert policy.since == "2026-11-28T22:00:00+00:00"
