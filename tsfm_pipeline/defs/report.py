"""The body that all report assets share: compute, write JSON and figures, and show figures,
markdown and numbers.

What belongs here: the shape of a report's asset and of its metadata. What does not: which reports
there are (`assets`), computing one (`steps`), drawing and wording it (`reports`). `materialise`
does the same for tables.
"""

import base64
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.parameters import FLEET
from tsfm_pipeline.defs.materialise import OWNERS, RETRY, holding
from tsfm_pipeline.defs.progress import ANSWER
from tsfm_pipeline.defs.resources import Workspace
from tsfm_pipeline.files import write_atomically
from tsfm_pipeline.reports.shared.files import read_report, write_report
from tsfm_pipeline.reports.shared.model import Figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def asset_of_a_report(
    partitions: dg.PartitionsDefinition,
    group: str,
    name: str,
    deps: tuple[str, ...],
    **kwargs: Any,
) -> Callable[..., dg.AssetsDefinition]:
    """Return the decorator `@dg.asset` for a report of one fleet."""
    return dg.asset(
        name=name,
        partitions_def=partitions,
        group_name=group,
        deps=list(deps),
        owners=OWNERS,
        retry_policy=RETRY,
        kinds={"json", "matplotlib", *kwargs.pop("kinds", set())},
        code_version=kwargs.pop("code_version", "1"),
        **kwargs,
    )


def report_result(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    name: str,
    compute: Callable[[Fleet], Figures],
    figures: tuple[Callable[[Any], "Figure"], ...],
    checks: Callable[[Any], list[dg.AssetCheckResult]] = lambda report: [],
    more: Callable[[Any], dict[str, Any]] = lambda report: {},
    publish: Callable[[Fleet, Any], None] = lambda fleet, report: None,
) -> dg.MaterializeResult:
    """Compute a report, write its JSON and figures, and show figures, markdown and numbers.

    compute returns the report's model; the functions in figures, and checks, more and publish,
    receive that model. publish writes what others read besides the report.
    """
    from tsfm_pipeline.reports.models import model_of
    from tsfm_pipeline.reports.page.markdown import answer, summary
    from tsfm_pipeline.reports.shared.style import to_png

    fleet = workspace.fleet(context.partition_key)
    with holding(context, FLEET, fleet):
        computed = compute(fleet)
        path = write_report(fleet, name, computed.flat())
        content = read_report(fleet, name)
        report = model_of(name, content)
        publish(fleet, report)
        text = summary(name, report)
        if fleet.settings.profile != "full":
            text = f"**A {fleet.settings.profile} run: a first look, not an answer.**\n\n{text}"
        metadata: dict[str, Any] = {
            "summary": dg.MetadataValue.md(text),
            ANSWER: answer(name, report),
            "path": dg.MetadataValue.path(str(path)),
        }
        for draw in figures:
            name_of_figure, figure = draw.__name__, draw(report)
            write_atomically(fleet.reports_dir / f"{name_of_figure}.png", partial(to_png, figure))
            metadata[name_of_figure] = shown_png(name_of_figure, to_png(figure, dpi=80))
    metadata |= {"profile": content["profile"], **more(report), **numbers(content)}
    return dg.MaterializeResult(metadata=metadata, check_results=checks(report))


def shown_png(name: str, png: bytes) -> dg.MarkdownMetadataValue:
    """Return a figure, given as PNG bytes, as metadata that the UI shows."""
    encoded = base64.b64encode(png).decode()
    return dg.MetadataValue.md(f"![{name}](data:image/png;base64,{encoded})")


def numbers(report: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a report's JSON as floats, without nulls; the UI plots them."""
    return {
        key: float(value)
        for key, value in report.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
