"""Base card: MODEL_CARD.md of the own policy's base.

What belongs here: the text of the card; every figure in it was measured by the run. What does not:
measuring (`base_training`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tsfm_pipeline.files import write_text_atomically
from tsfm_pipeline.studies.time_r1.training import COLUMNS
from tsfm_pipeline.studies.time_r1.windows import Floats

if TYPE_CHECKING:
    from tsfm_pipeline.studies.time_r1.base_training import BaseResult

CARD_FILE = "MODEL_CARD.md"
_LAST = 100
_TEXT = """# Model card: `{name}`

The base of the own policy of the study of slow thinking: a small language model that reads a
look-back, with or without a draft forecast, as one token per number, and writes a reason and an
answer. Qwen2 architecture, closed vocabulary. It was trained from scratch on synthetic series
alone (corpus 3 of the pretraining, with cheap drafts), and has seen no real series and no sample.

| | |
|---|---|
| sha256 of model.safetensors | `{digest}` |
| updates | {steps:,} of {batch} sequences |
| tokens read | {tokens:,} |
| processor time | {minutes:.1f} minutes, {rate:,.0f} tokens per second |

## Losses
Mean negative log likelihood in nats per token, without smoothing. Held out are windows of blocks
of the corpus that no run trains on. TEMPLATE are the tags, THINK the reason, NUMBER the answer,
HISTORY the numbers of the prompt.

{losses}

NUMBER on held-out windows during the run:

{curve}

## Again
The same bytes, on one kind of machine:

```console
$ tsfm-pipeline time-r1 train-base {name} --steps {steps}
```

The command takes the defaults of `BaseOptions`. This base was trained with these options, of which
`train_base(folder, BaseOptions(**options))` takes any others:

```json
{options}
```

## Limits
A base answers in the right form, but its forecasts are those of a small model of short training:
what it is worth beside its draft is measured after the warm-up and GRIP, not here.
"""


def write_card(
    folder: Path,
    options: Mapping[str, Any],
    result: "BaseResult",
    digest: str,
    history: Floats,
) -> Path:
    """Write the card of a finished run into its folder and return its path.

    history: float64 [step, COLUMNS].
    """
    stated = {**options, "steps": result.step}
    text = _TEXT.format(
        name=folder.name,
        digest=digest,
        steps=result.step,
        batch=options["batch"],
        tokens=result.tokens,
        minutes=result.cpu_s / 60,
        rate=result.tokens / max(result.cpu_s, 1e-9),
        losses=_losses(result.held_out, history),
        curve=_curve(result),
        options=json.dumps(stated, indent=1),
    )
    path = folder / CARD_FILE
    write_text_atomically(path, text)
    return path


def _losses(held_out: Mapping[str, Mapping[str, float]], history: Floats) -> str:
    """Return a table of losses by the kind of prompt, and of the last updates."""
    names = ("template", "think", "number", "history")
    last = history[-_LAST:]
    trained = {name: float(np.nanmean(last[:, COLUMNS.index(name)])) for name in names}
    rows = {f"held out, {kind}": losses for kind, losses in held_out.items()}
    rows[f"the last {len(last)} updates"] = trained
    lines = ["| | " + " | ".join(name.upper() for name in names) + " |", "|---|" + "---|" * 4]
    for title, losses in rows.items():
        cells = " | ".join(f"{losses[name]:.3f}" for name in names)
        lines.append(f"| {title} | {cells} |")
    return "\n".join(lines)


def _curve(result: "BaseResult") -> str:
    """Return a table of the held-out losses of numbers by step."""
    kinds = list(result.held_out)
    lines = ["| updates | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    for step, losses in {**result.curve, result.step: result.held_out}.items():
        cells = " | ".join(f"{losses[kind]['number']:.3f}" for kind in kinds)
        lines.append(f"| {step:,} | {cells} |")
    return "\n".join(lines)
