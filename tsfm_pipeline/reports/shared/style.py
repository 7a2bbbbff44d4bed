"""One visual language for all figures: colours, markers, sizes, and conversion to bytes.

What belongs here: what all figures share. What does not: what a figure shows (each report's
`figures`). Matplotlib is imported inside functions only. Figures use its object-oriented interface,
which keeps no global state; equal content gives byte-identical SVG and PNG.

Colours: Okabe and Ito (2008), which people with colour-vision deficiencies can tell apart. Markers
and line styles repeat what colour says, so a figure is readable in greyscale.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from html import escape
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK_COLOUR = "#1f2328"
MUTED_COLOUR = "#6e7781"
FAINT_COLOUR = "#d0d7de"
SEARCH_COLOUR = "#0072B2"
FIXED_COLOUR = "#D55E00"
FIXED_TEXT_COLOUR = "#B54A00"
"""The hue of `FIXED_COLOUR`, dark enough for text on white (contrast 5.3 : 1)."""

TIER_COLOURS = {"premium": "#2e1147", "standard": "#7d3fa5", "basic": "#b07fd0"}
TIER_MARKERS = {"premium": "^", "standard": "o", "basic": "s"}
OTHER_TIERS: tuple[tuple[str, str], ...] = (
    ("#7d3fa5", "o"),
    ("#2e1147", "^"),
    ("#b07fd0", "s"),
    ("#009E73", "D"),
    ("#9A6700", "v"),
)
"""Colour and marker of tiers with other names, by position; repeated if there are more tiers."""

WIDTH_INCHES = 9.0
"""On A4 paper a figure shrinks to four fifths; its smallest text is then 6 points high."""

RC: dict[str, Any] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK_COLOUR,
    "axes.edgecolor": MUTED_COLOUR,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK_COLOUR,
    "ytick.color": INK_COLOUR,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK_COLOUR,
    # Tenant and archetype names may contain a dollar sign, which must not start mathematics.
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "hatch.linewidth": 0.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "tsfm-pipeline",
}


def tier_styles(tiers: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each tier."""
    names = list(tiers)
    if set(names) <= set(TIER_COLOURS):
        return {tier: (TIER_COLOURS[tier], TIER_MARKERS[tier]) for tier in names}
    return dict(zip(names, cycle(OTHER_TIERS), strict=False))


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save with the project's settings regardless of the user's matplotlibrc, and restore
    the previous settings.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def new_figure(
    height_inches: float, description: str, width_inches: float = WIDTH_INCHES
) -> "Figure":
    """Return an empty figure whose description becomes the SVG's label for screen readers.

    Must be called within `house_style`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_label(description)
    return figure


def to_svg(figure: "Figure") -> str:
    """Return a figure as an `<svg>` element for HTML: text as text, ids unique to its content, no
    date, no prologue.
    """
    buffer = io.StringIO()
    with house_style():
        figure.savefig(
            buffer,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    svg = text[text.index("<svg") :].rstrip()
    referenced = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    scope = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(
        r' id="([^"]+)"', lambda m: f' id="{scope}-{m[1]}"' if m[1] in referenced else "", svg
    )
    svg = re.sub(r'(url\(|href=")#', rf"\1#{scope}-", svg)
    # Inline SVG needs no namespaces, and without them the page contains no URL.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    label = escape(str(figure.get_label()), quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def to_png(figure: "Figure", path: Path | None = None, dpi: int = 150) -> bytes:
    """Return a figure as PNG bytes; also write them to `path` if one is given."""
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    content = buffer.getvalue()
    if path is not None:
        path.write_bytes(content)
    return content
