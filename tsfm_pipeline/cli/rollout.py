"""`tsfm-pipeline rollout`: which share of the markets the online service's model answers.

What belongs here: showing the published decision, and overriding it. What does not: the record and
the decision (`steps.rollout_overrides`), and the automatic rules (`evaluation.rollout`).
"""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tsfm_pipeline.cli.screen import plain_errors, refuse, say, show

if TYPE_CHECKING:
    from tsfm_pipeline.catalogue.fleet import Fleet
    from tsfm_pipeline.evaluation.rollout import RolloutDecision

SHOWN = 10
"""Overrides that are listed, the last ones."""

rollout = typer.Typer(
    help="The rollout of the online service: which share of the markets the model answers.",
    no_args_is_help=True,
)

FleetName = Annotated[
    str, typer.Option("--fleet", envvar="TSFM_SERVING_FLEET", help="the served fleet")
]
Reason = Annotated[str, typer.Option("--reason", help="why; it is kept with the decision")]
By = Annotated[
    str | None, typer.Option("--by", help="who decides (default: the user of this session)")
]


@rollout.command("show")
def show_decision(
    fleet: FleetName,
    as_json: Annotated[
        bool, typer.Option("--json", help="print the published decision as one JSON object")
    ] = False,
) -> None:
    """Show the decision that the service obeys, and what people decided."""
    with plain_errors():
        from tsfm_pipeline.steps.rollout_overrides import overrides, published

        served = _open(fleet)
        decision, records = published(served), overrides(served)
    if as_json:
        typer.echo("null" if decision is None else decision.model_dump_json(indent=1))
        return
    if decision is None:
        say(
            f"nothing is published for fleet {fleet}: the service answers in shadow if it obeys "
            "the rollout"
        )
    else:
        _print(fleet, decision)
    if records:
        rows = [
            (
                f"{record.at:%Y-%m-%d %H:%M:%S}",
                record.by,
                record.action,
                "" if record.percent is None else f"{record.percent} %",
                record.reason,
            )
            for record in records[-SHOWN:]
        ]
        columns = ("UTC", "by", "action", "share", "reason")
        show(f"last overrides, of {len(records)}", columns, rows)


@rollout.command()
def pin(
    percent: Annotated[
        int, typer.Argument(min=0, max=100, help="share of the markets, in percent")
    ],
    fleet: FleetName,
    reason: Reason = "no reason given",
    by: By = None,
) -> None:
    """Let the model answer this share of the markets, whatever the automatic rules say."""
    _override(fleet, "pin", percent, reason, by)


@rollout.command()
def rollback(fleet: FleetName, reason: Reason, by: By = None) -> None:
    """Let baselines answer everything until `resume` or `pin`."""
    _override(fleet, "rollback", None, reason, by)


@rollout.command()
def resume(fleet: FleetName, reason: Reason = "no reason given", by: By = None) -> None:
    """Leave the rollout to the automatic rules again, from the largest stage that does not raise
    the share.
    """
    _override(fleet, "resume", None, reason, by)


def _override(
    fleet: str,
    action: Literal["pin", "rollback", "resume"],
    percent: int | None,
    reason: str,
    by: str | None,
) -> None:
    with plain_errors():
        from datetime import UTC, datetime

        from pydantic import ValidationError

        from tsfm_pipeline.evaluation.rollout import Override
        from tsfm_pipeline.steps.rollout_overrides import decide

        try:
            override = Override(
                at=datetime.now(UTC),
                action=action,
                percent=percent,
                reason=reason,
                by=by or _user(),
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            refuse(f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": "))
        _print(fleet, decide(_open(fleet), override))
        say(
            "services obey it whose setting TSFM_SERVING_ROUTE__ROLLOUT is `published`; by default "
            "it is `off`, and the model answers everything"
        )


def _open(fleet: str) -> "Fleet":
    from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
    from tsfm_pipeline.settings import Settings

    return open_workspace_fleet(Settings(), fleet)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        refuse("this session's user has no name; say who decides with --by NAME")


def _print(fleet: str, decision: "RolloutDecision") -> None:
    say(f"{fleet}: stage {decision.stage}, the model answers {decision.percent} % of the markets")
    say(f"since {decision.since:%Y-%m-%d %H:%M:%S} UTC, by {decision.by}: {decision.reason}")
    needed = decision.limits.clean_minutes.get(decision.stage)
    if needed is not None:
        say(
            f"{decision.clean_minutes} of {needed} clean minutes for the next stage, as of "
            f"{decision.as_of:%Y-%m-%d %H:%M:%S} UTC"
        )
