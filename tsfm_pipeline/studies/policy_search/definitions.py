"""Define the third code location: the study of the outer loop.

What belongs here: the study's tables as assets, its yardstick, experiments and report, and the job
that runs them. What does not: the work itself, which is in the other modules of this package; the
assets import most of them in their bodies, because a code server pays for what is imported.

    dagster job launch -m tsfm_pipeline.studies.policy_search.definitions -j policy_search

The location is separate from the fleets' graph so that materialising `*` there runs no experiment.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from tsfm_pipeline.defs.code_references import with_references_to_bodies
from tsfm_pipeline.defs.materialise import HEAVY, OWNERS, table_asset
from tsfm_pipeline.defs.partitions import partitions_of
from tsfm_pipeline.defs.progress import ANSWER
from tsfm_pipeline.defs.report import shown_png
from tsfm_pipeline.defs.resources import Workspace, resources
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.scope import SCOPE
from tsfm_pipeline.studies.policy_search.tables import MAKERS, POLICY_SEARCH, TABLES

GROUP = POLICY_SEARCH
JOB = "policy_search"
YARDSTICK, EXPERIMENTS, REPORT = (
    "policy_search_yardstick",
    "policy_search_experiments",
    "policy_search_report",
)
WEEKEND_CRON = "0 20 * * 5,6"
WEEKEND_HOURS = 6.0
"""From 20:00 UTC; the loop ends before the nightly runs of the fleets begin at 02:30."""


class YardstickConfig(dg.Config):
    """The fleets that policies are judged on."""

    fleets: list[str] = Field(
        default_factory=list,
        description="prepare and seal these; empty: those of the sealed yardstick",
    )


class ExperimentsConfig(dg.Config):
    """Who proposes policies, and when to stop."""

    driver: Literal["random", "optuna", "agent"] = Field(
        "optuna", description="agent: needs TSFM_AGENT_URL and TSFM_AGENT_MODEL"
    )
    hours: float | None = Field(1.0, description="begin no experiment that would end later")
    experiments: int | None = Field(None, description="try so many policies of the driver at most")
    seed: int = Field(0, ge=0, description="of the drivers random and optuna")


class PolicySearchConfig(ExperimentsConfig, YardstickConfig):
    """The run config of the job `policy_search`."""


@dg.config_mapping
def flat_config(val: PolicySearchConfig) -> dict[str, Any]:
    """Return the run config of the job's assets from the job's own few fields."""
    given = val.model_dump()
    fleets = given.pop("fleets")
    return {
        "ops": {YARDSTICK: {"config": {"fleets": fleets}}, EXPERIMENTS: {"config": given}},
    }


@dg.asset(
    name=YARDSTICK,
    group_name=GROUP,
    owners=OWNERS,
    op_tags=HEAVY,
    deps=[dg.AssetDep(name, partition_mapping=dg.AllPartitionMapping()) for name in TABLES],
    kinds={"json", "torch"},
    code_version="1",
)
def policy_search_yardstick(
    context: dg.AssetExecutionContext, config: YardstickConfig, workspace: Workspace
) -> dg.MaterializeResult:
    """What are policies judged on, that no experiment may change? Makes the study's tables that are
    missing.
    """
    from tsfm_pipeline.studies.policy_search.operations import prepare_study
    from tsfm_pipeline.studies.policy_search.yardstick import read_yardstick, require_untouched

    settings = workspace.settings
    with _failures():
        if config.fleets:
            yardstick = prepare_study(settings, config.fleets, context.log.info)
        else:
            yardstick = read_yardstick(settings)
            require_untouched(settings, yardstick)
    return dg.MaterializeResult(
        metadata={
            "digest": yardstick.digest,
            "fleets": list(yardstick.fleets),
            "choosing_folds": list(yardstick.choosing),
            "confirming_folds": list(yardstick.confirming),
            "budget_ms": yardstick.budget_ms,
        },
        data_version=dg.DataVersion(yardstick.digest),
    )


@dg.asset(
    name=EXPERIMENTS,
    group_name=GROUP,
    owners=OWNERS,
    op_tags=HEAVY,
    deps=[policy_search_yardstick],
    kinds={"parquet"},
    code_version="1",
)
def policy_search_experiments(
    context: dg.AssetExecutionContext, config: ExperimentsConfig, workspace: Workspace
) -> dg.MaterializeResult:
    """Which policies were tried, what did they cost, and was one of them promoted? Every line of
    the ledger is logged and observed as soon as it is there.
    """
    from tsfm_pipeline.studies.policy_search.ledger import Ledger
    from tsfm_pipeline.studies.policy_search.operations import search, status

    settings = workspace.settings
    observed: set[str] = set()
    ledger = Ledger(settings)

    def tell(message: str) -> None:
        context.log.info(message)
        state = status(settings, n_last=1, ledger=ledger)
        if state.last and state.last[-1].experiment not in observed:
            observed.add(state.last[-1].experiment)
            context.instance.report_runless_asset_event(
                dg.AssetObservation(
                    EXPERIMENTS, metadata=_progress(state), tags={"run_id": context.run_id}
                )
            )

    with _failures():
        observed |= {line.experiment for line in status(settings, n_last=1, ledger=ledger).last}
        end = search(
            settings,
            config.driver,
            hours=config.hours,
            experiments=config.experiments,
            seed=config.seed,
            log=tell,
        )
        state = status(settings, ledger=ledger)
    shown: dict[str, Any] = {
        "n_experiments_of_this_run": len(end.experiments),
        "ended": end.reason,
        **_progress(state),
        "last": dg.MetadataValue.json([line.model_dump(mode="json") for line in state.last]),
    }
    return dg.MaterializeResult(metadata=shown)


def _progress(state: Any) -> dict[str, Any]:
    """Return the figures of a study's state that the UI plots over time."""
    incumbent, last = state.incumbent, state.last[-1] if state.last else None
    figures: dict[str, Any] = {
        "n_experiments": state.n_experiments,
        **{f"n_{name}": n for name, n in state.counts.items()},
        "n_considered": state.n_considered,
        "n_promoted": state.n_promoted,
        "n_final_looks": state.n_final_looks,
        "policy_in_force": state.in_force,
    }
    if incumbent is not None:
        figures |= {
            "incumbent": incumbent.policy,
            "incumbent_objective": incumbent.objective,
            "incumbent_p95_ms": incumbent.p95_ms,
        }
    if last is not None:
        figures |= {"last_status": last.status, "last_description": last.description}
    return figures


@dg.asset(
    name=REPORT,
    group_name=GROUP,
    owners=OWNERS,
    deps=[policy_search_experiments],
    kinds={"json", "matplotlib", "html"},
    code_version="1",
)
def policy_search_report(
    context: dg.AssetExecutionContext, workspace: Workspace
) -> dg.MaterializeResult:
    """What did the outer loop find, how much of it is left on tenants that chose nothing, and what
    was tried in vain?
    """
    from tsfm_pipeline.reports.shared.style import to_png
    from tsfm_pipeline.studies.policy_search.report import words
    from tsfm_pipeline.studies.policy_search.report.figures import FIGURES
    from tsfm_pipeline.studies.policy_search.report.page import make_report
    from tsfm_pipeline.studies.policy_search.report.sections import summary

    with _failures():
        report, page = make_report(workspace.settings)
    metadata: dict[str, Any] = {
        "summary": dg.MetadataValue.md(summary(report)),
        ANSWER: words.search_answer(report).sentence,
        "path": dg.MetadataValue.path(str(page)),
    }
    for draw in FIGURES:
        png = to_png(draw(report), dpi=80)
        metadata[draw.__name__] = shown_png(draw.__name__, png)
    figures = {
        name: float(value)
        for name, value in report.flat().items()
        if isinstance(value, int | float) and value == value
    }
    return dg.MaterializeResult(metadata=metadata | figures)


@contextmanager
def _failures() -> Iterator[None]:
    """Turn errors that a person must fix (no yardstick, a touched one, a driver that is not set up)
    into a `dg.Failure` without retries.
    """
    from tsfm_pipeline.studies.policy_search.drivers import DriverError
    from tsfm_pipeline.studies.policy_search.loop import LoopError

    try:
        yield
    except (StorageError, ValueError, FileNotFoundError, DriverError, LoopError) as error:
        raise dg.Failure(
            description=str(error), metadata={"kind": type(error).__name__}, allow_retries=False
        ) from error


def build_definitions(settings: Settings) -> dg.Definitions:
    """Return the study's assets over the fleets that `settings` points at, with job, schedule and
    resources.
    """
    partitions = partitions_of(SCOPE, settings)
    tables = [table_asset(SCOPE, table, MAKERS[name], partitions) for name, table in TABLES.items()]
    whole = with_references_to_bodies(
        [policy_search_yardstick, policy_search_experiments, policy_search_report]
    )
    job = dg.define_asset_job(
        JOB,
        dg.AssetSelection.assets(YARDSTICK, EXPERIMENTS, REPORT),
        config=flat_config,
        description="Experiments on the settings of the search until the time is up, promotion of "
        "what is shown to be better, and the report. Without `fleets` it uses the sealed "
        "yardstick.",
        tags={"purpose": "policy_search"},
    )
    return dg.Definitions(
        assets=[*tables, *whole],
        jobs=[job],
        schedules=[_weekend_schedule(settings)],
        resources=resources(settings),
        executor=dg.in_process_executor,
    )


def _weekend_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Return the schedule of weekend nights, which is off until someone switches it on."""

    @dg.schedule(
        job_name=JOB,
        cron_schedule=WEEKEND_CRON,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="On Friday and Saturday at 20:00 UTC: six hours of the job `policy_search` on "
        "the sealed yardstick. Off by default, because it starts runs.",
    )
    def weekend_nights(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        from tsfm_pipeline.studies.policy_search.yardstick import YardstickError, read_yardstick

        try:
            yardstick = read_yardstick(settings)
        except YardstickError as error:
            return dg.SkipReason(str(error))
        night = context.scheduled_execution_time.date().isoformat()
        return dg.RunRequest(
            run_key=f"policy-search-{night}",
            run_config={"hours": WEEKEND_HOURS},
            tags={"night": night, "yardstick": yardstick.digest},
        )

    return weekend_nights


defs = build_definitions(Settings())
