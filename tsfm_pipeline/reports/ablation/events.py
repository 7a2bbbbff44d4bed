"""What a fleet's known events were worth: the search with them against the search that takes them
for ordinary times.

What belongs here: the rows of `table_events`. What does not: which validation origins count beside
an event (`evaluation.events`), scoring both searches (`steps.scores`).
"""

import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.methods import SEARCH, SEARCH_DESPITE_EVENTS
from tsfm_pipeline.reports.ablation.comparison import draws_of, loss_ratio, verdict_of
from tsfm_pipeline.reports.ablation.losses import Grouping
from tsfm_pipeline.reports.ablation.model import EventRow
from tsfm_pipeline.steps.known_events import comparable_origins, has_events, known_events


def event_rows(everything: Grouping, fleet: Fleet) -> list[EventRow]:
    """Return per tier the search's cost with against without the events, over the test requests
    that lose a validation origin by them; none without events, or without such requests.
    """
    if not has_events(fleet):
        return []
    requests = fleet.arrays.requests("test")
    changed = requests.ids.ravel()[~comparable_origins(fleet, requests).all(axis=1)].tolist()
    rows = []
    for (tier, _), methods in everything.frames.items():
        heard, ignored = (
            methods[method].filter(pl.col("request_id").is_in(changed))
            for method in (SEARCH, SEARCH_DESPITE_EVENTS)
        )
        if not heard.height:
            continue
        ratio = loss_ratio(heard, ignored, draws_of(fleet))
        rows.append(
            EventRow(
                tier=tier,
                n_events=len(known_events(fleet)),
                n_requests=heard["request_id"].n_unique(),
                share=heard["request_id"].n_unique() / methods[SEARCH]["request_id"].n_unique(),
                ratio=ratio,
                verdict=verdict_of(ratio, ("gains", "loses", "no effect shown")),
            )
        )
    return rows
