"""Which configurations the search weighs, and for whom.

What belongs here: the report's table of mean weights. What does not: the weights themselves
(`steps.forecasts`), the rest of the report (`numbers`).
"""

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.reports.ablation.model import SelectionRow

GROUP_COLUMNS = {"archetype": "m.archetype", "tenant": "r.tenant_id", "metric": "f.metric"}


def selection_rows(fleet: Fleet, scope: str) -> list[SelectionRow]:
    """Return the mean weight of each configuration, and the share of series-requests at which it
    weighs most; overall and by group.
    """
    sql = f"""
        SELECT f.tier, f.chosen, f.weights,
               {GROUP_COLUMNS[scope]} AS "group"
        FROM autoresearch_forecasts f
        JOIN forecast_requests r USING (request_id)
        JOIN tenant_manifest m ON m.tenant_number = f.tenant_number
        WHERE r.valid AND f.chosen <> ''
        ORDER BY f.request_id, f.metric
    """
    table = fleet.tables.query(
        sql, "autoresearch_forecasts", "forecast_requests", "tenant_manifest"
    )
    frames = table.partition_by("tier", "group", as_dict=True)
    whole = table.partition_by("tier", as_dict=True)
    rows = []
    for tier in fleet.protocol.tiers:
        groups = {("all", ""): whole[(tier,)]} if (tier,) in whole else {}
        groups |= {
            (scope, group): frame
            for (own, group), frame in sorted(frames.items(), key=str)
            if own == tier and group is not None
        }
        for (name, group), frame in groups.items():
            weights = frame["weights"].to_numpy().mean(axis=0)
            for config, weight in zip(fleet.configs, weights.tolist(), strict=True):
                rows.append(
                    SelectionRow(
                        tier=tier,
                        scope=name,
                        scope_value=str(group),
                        config=config.name,
                        mean_weight=weight,
                        share_chosen=float((frame["chosen"] == config.name).to_numpy().mean()),
                        n_series_requests=frame.height,
                    )
                )
    return rows
