"""Test profiles and the run's own model: the launchpad's choices, what is refused, and that
fingerprints hold the settings that ran.
"""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.defs.build import build_definitions
from tsfm_pipeline.defs.resources import ForecasterResource, Workspace
from tsfm_pipeline.settings import CHEAP, PROJECT_ROOT, Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(specs_dir=PROJECT_ROOT / "data" / "fleets", data_dir=tmp_path, device="cpu")


def profile_config(profile: str) -> dict[str, Any]:
    return {"workspace": {"config": {"profile": profile}}}


def seen(
    settings: Settings, resources: dict[str, Any] | None = None, tags: dict[str, str] | None = None
) -> Any:
    """What a step of a run with this config sees: (workspace's settings, expected fingerprints of
    demo, forecaster's dtype).
    """
    saw: list[Any] = []

    @dg.op
    def look(workspace: Workspace, forecaster: ForecasterResource) -> None:
        saw.append((workspace.settings, workspace.fleet("demo").tables.expected, forecaster.dtype))

    @dg.job(resource_defs=build_definitions(settings).resources)
    def looking() -> None:
        look()

    looking.execute_in_process(run_config={"resources": resources or {}}, tags=tags)
    return saw[0]


@pytest.mark.parametrize("profile", ["cheap", "full"])
def test_the_launchpad_of_a_profile_says_so_and_its_config_is_valid(
    settings: Settings, profile: str
) -> None:
    job = build_definitions(settings).resolve_job_def(profile)
    offered = job.partitioned_config.get_run_config_for_partition_key("demo")
    assert offered["resources"] == profile_config(profile)
    assert (
        dg.validate_run_config(job, offered)["resources"]["forecaster"]["config"]["device"] == "cpu"
    )
    assert job.partitioned_config.get_tags_for_partition_key("demo")["fleet"] == "demo"
    assert job.run_tags["profile"] == profile


def test_a_profile_that_there_is_not_is_refused_with_those_that_there_are(
    settings: Settings,
) -> None:
    job = build_definitions(settings).resolve_job_def("cheap")
    with pytest.raises(
        dg.DagsterInvalidConfigError,
        match=r"profile not in enum type Literal\['full', 'cheap'\] got chaep",
    ):
        dg.validate_run_config(job, {"resources": profile_config("chaep")})


def test_the_launchpad_explains_what_cheap_allows(settings: Settings) -> None:
    workspace = build_definitions(settings).resolve_job_def("cheap").resource_defs["workspace"]
    text = str(workspace.config_schema.config_type.fields["profile"].description)  # type: ignore[union-attr]
    assert all(
        f"{name} <= {limit}" in text
        for section in CHEAP.values()
        for name, limit in section.items()
    )


def test_a_cheap_run_computes_within_its_limits_and_writes_elsewhere(settings: Settings) -> None:
    cheap, cheap_tables, _ = seen(settings, profile_config("cheap"))
    full, full_tables, _ = seen(settings)
    assert (cheap.profile, full.profile) == ("cheap", "full")
    for section, limits in CHEAP.items():
        assert {name: getattr(getattr(cheap, section), name) for name in limits} == limits
        assert all(getattr(getattr(full, section), name) > limit for name, limit in limits.items())
    assert cheap.lake_dir == settings.data_dir / "cheap" / "lake"
    assert full.reports_dir == settings.data_dir / "reports"
    differing = {name for name in TABLES if cheap_tables[name] != full_tables[name]}
    assert {"config_portfolio", "forecast_grid", "search_policy", "headline_scores"} <= differing
    assert "tenant_telemetry" not in differing


def test_a_full_run_is_refused_where_everything_is_cheap(settings: Settings) -> None:
    everything_cheap = Settings(**settings.model_dump(exclude={"profile"}), profile="cheap")
    assert seen(everything_cheap)[0].profile == "cheap"
    with pytest.raises(
        dg.Failure,
        match="this code location runs with TSFM_PROFILE=cheap; unset it and start Dagster again",
    ):
        seen(everything_cheap, profile_config("full"))


def test_a_job_that_was_launched_without_its_config_is_refused(settings: Settings) -> None:
    with pytest.raises(dg.DagsterResourceFunctionError) as refused:
        seen(settings, tags={"profile": "cheap"})
    assert "the run is tagged profile=cheap, but its config says" in str(refused.value.__cause__)


def test_the_model_of_a_run_is_the_one_that_its_tables_are_fingerprinted_with(
    settings: Settings,
) -> None:
    ran, tables, dtype = seen(settings, {"forecaster": {"config": {"dtype": "bfloat16"}}})
    assert (dtype, ran.dtype) == ("bfloat16", "bfloat16")
    assert ran.device == "cpu", "a field that the run config does not name stays as it was"
    assert tables["forecast_grid"] != seen(settings)[1]["forecast_grid"]
