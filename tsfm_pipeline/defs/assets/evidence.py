"""Group `reports`, over all fleets: the only report without a partition.

What belongs here: showing the evidence across fleets. What does not: collecting it
(`reports.across_fleets.numbers`), drawing it (`reports`). Every run of a single fleet (`--select
'*' --partition demo`) includes it, so it takes no lock, needs no other fleet, and does not wait for
any.
"""

import base64
from functools import partial

import dagster as dg

from tsfm_pipeline.defs.assets.reports import GROUP
from tsfm_pipeline.defs.materialise import HEAVY, OWNERS, RETRY
from tsfm_pipeline.defs.progress import ANSWER
from tsfm_pipeline.defs.resources import Workspace
from tsfm_pipeline.files import write_atomically, write_text_atomically

NAME = "evidence_report"


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Return the asset over all of the given fleets."""
    every_fleet = dg.AssetDep("headline_scores", partition_mapping=dg.AllPartitionMapping())

    # Heavy only so that it never runs beside the latency measurement.
    @dg.asset(
        name=NAME,
        group_name=GROUP,
        deps=[every_fleet],
        owners=OWNERS,
        retry_policy=RETRY,
        kinds={"json", "matplotlib"},
        code_version="1",
        op_tags=HEAVY,
    )
    def evidence_report(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """On which fleets does the search pay, on which does it not, and what do they say
        together?
        """
        from tsfm_pipeline.reports.across_fleets.figures import forest_figure
        from tsfm_pipeline.reports.across_fleets.numbers import evidence_report as compute
        from tsfm_pipeline.reports.across_fleets.words import evidence_answer, evidence_markdown
        from tsfm_pipeline.reports.shared.files import write_json
        from tsfm_pipeline.reports.shared.style import to_png

        settings = workspace.settings
        report = compute(settings)
        folder, figure = settings.reports_dir, forest_figure(report)
        write_json(folder / f"{NAME}.json", report.flat())
        write_atomically(folder / f"{NAME}.png", partial(to_png, figure))
        write_text_atomically(folder / f"{NAME}.md", evidence_markdown(report, f"{NAME}.png"))
        for name in report.not_current:
            context.log.warning(
                f"the scores of fleet {name} are not current and left out: re-materialise "
                f"headline_scores of {name}"
            )
        encoded = base64.b64encode(to_png(figure, dpi=80)).decode()
        summary = evidence_markdown(report, f"data:image/png;base64,{encoded}")
        return dg.MaterializeResult(
            metadata={
                "summary": dg.MetadataValue.md(summary),
                ANSWER: evidence_answer(report).sentence,
                "path": dg.MetadataValue.path(str(folder / f"{NAME}.json")),
                **{
                    key: value
                    for key, value in report.flat().items()
                    if isinstance(value, int | float)
                },
            }
        )

    return [evidence_report]
