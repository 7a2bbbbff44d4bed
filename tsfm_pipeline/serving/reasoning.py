"""The reasoning of an answer, as a client reads it.

What belongs here: the wire model. What does not: how a model comes to it (`runtimes.Thought`), and
filling it in the client's unit (`answers`).
"""

from pydantic import BaseModel, ConfigDict, Field

from tsfm_pipeline.serving.runtimes import Verdict


class Reasoning(BaseModel):
    """How a model that reasons came to its answer.

    verdict: `refined`, the forecast is the model's refined answer; `draft`, that answer lost
    against the draft on known values, so the draft is the forecast; `late`, there was no time for
    an answer, so the draft is the forecast.
    """

    model_config = ConfigDict(extra="forbid")

    verdict: Verdict
    text: str = Field(description="the reasons, in plain English")
    draft: list[float] = Field(description="what the model started from, one value per step")
    refined: list[float] | None = Field(
        None,
        description="what its correction makes of the draft, used or not; none: there was no time",
    )
    answers: int = Field(
        description="answers that it gave, for the forecast, its check and its spread"
    )
    unreadable: int = Field(description="answers that could not be read; the draft stood for them")
    thinking_ms: float
