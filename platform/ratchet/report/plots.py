"""The door to matplotlib: small plots as inline SVG that follow the page's colours, light and dark.

Colours are written as place-holder values and become CSS variables in the SVG text; text stays text.
Sizes are in SVG units, one unit a CSS pixel at a plot's natural width.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

# matplotlib takes no CSS variable for a colour, so each has a colour that nothing else has until the SVG is text.
INK, MUTED, RULE, PAGE, WARN, FALL = "#010101", "#010102", "#010103", "#010104", "#010105", "#010106"
STAGES = 8
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAGE: "--page", WARN: "--warn", FALL: "--fall"}
_VARIABLES |= {f"#0102{index:02x}": f"--stage-{index}" for index in range(STAGES)}
LEVELS = 8
_VARIABLES |= {f"#0103{index:02x}": f"--level-{index}" for index in range(LEVELS)}
_STYLE = {
    # Text and no outlines: it takes the page's font, can be searched, and is read aloud.
    "svg.fonttype": "none",
    "svg.hashsalt": "ratchet",  # ids are the same each time, so that a page made again is the same to the byte
    "text.parse_math": False,  # a source or model may have dollar signs in its name
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "lines.solid_capstyle": "round",
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}

Series = list[tuple[float, float]]
Paint = Callable[[Any], None]
Item = TypeVar("Item", bound=tuple[Any, ...])


def stage_colour(index: int | None) -> str:
    """Return the colour of the plan's stage number `index`; None (the base model) is grey."""
    return MUTED if index is None else f"#0102{index % STAGES:02x}"


def level_colour(share: float) -> str:
    """Return the colour of a share from 0 to 1: the nearer to 1, the more it stands out from the page."""
    return f"#0103{min(LEVELS - 1, max(0, int(share * LEVELS))):02x}"


def draw(
    name: str,
    label: str,
    paint: Paint,
    *,
    size: tuple[int, int] = (350, 225),
    margins: tuple[int, int, int, int] = (52, 16, 26, 38),
) -> str:
    """Return the plot that `paint(axes)` makes as SVG text.

    `margins` are left, right, top, bottom around the axes. `name` makes the ids of this plot its
    own on the page; `label` is what a screen reader says.
    """
    width, height = size
    left, right, top, bottom = margins
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's browser has the glyph
        # 72 points are an inch, and matplotlib writes a point as one unit of SVG. Without pyplot, which keeps each
        # figure and looks for a screen.
        figure = Figure(figsize=(width / 72, height / 72))
        axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=3, width=0.6)
        axes.yaxis.set_major_formatter(FuncFormatter(tick))
        axes.xaxis.set_major_formatter(FuncFormatter(tick))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        paint(axes)
        out = io.StringIO()
        # Without a date, so that a page made again is the same to the byte.
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(out.getvalue(), name, label, size)


def tick(value: float, _: Any = None) -> str:
    """Return an axis number: thousands separated, no needless digits, a true minus sign."""
    text = f"{value:,.10g}" if abs(value) < 1000 else f"{value:,.0f}"
    return text.replace("-", "−")


def _inline(svg: str, name: str, label: str, size: tuple[int, int]) -> str:
    """Strip what a page does not need, make ids unique and colours variables."""
    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # Every plot of matplotlib uses the same ids, and a page has many plots.
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", body))
    keep = {key: f"{name}-{number}" for number, key in enumerate(sorted(used))}
    body = re.sub(r' id="([^"]+)"', lambda found: f' id="{keep[found[1]]}"' if found[1] in keep else "", body)
    body = re.sub(r"(url\(#|href=\"#)([^)\"]+)", lambda found: found[1] + keep[found[2]], body)
    body = re.sub(r"#0[0-9a-f]{5}\b", _variable, body)
    body = body.replace("'DejaVu Sans'", "var(--font)")
    body = re.sub(r"<!--.*?-->\s*|<!DOCTYPE[^>]*>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"\n\s*", "\n", body)
    width, height = size
    style = f"max-width:{width * 1.3:g}px"
    head = f'<svg viewBox="0 0 {width} {height}" style="{style}" role="img" aria-label="{_attribute(label)}">'
    return head + body


def _variable(found: re.Match[str]) -> str:
    return f"var({_VARIABLES[found[0]]})" if found[0] in _VARIABLES else found[0]


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def thin(series: Sequence[tuple[float, float]], most: int = 400) -> Series:
    """Return at most `most` points, each the mean of as many consecutive ones: none is left out."""
    # Rounded up, or there would be more points than `most`.
    bin_size = -(-len(series) // most) if series else 1
    bins = [series[start : start + bin_size] for start in range(0, len(series), bin_size)]
    return [(sum(x for x, _ in one) / len(one), sum(y for _, y in one) / len(one)) for one in bins]


def smooth(series: Sequence[tuple[float, float]], window: int) -> Series:
    """Return the centred running mean over `window` points, over fewer towards the ends."""
    half = window // 2  # the window shrinks at both ends alike: a lopsided one would bend a straight line
    made = []
    for index, (x, _) in enumerate(series):
        # The first value stays itself: that a step starts at ln 2 or at 0 must be seen.
        near = series[index - min(half, index) : index + min(half, index) + 1]
        made.append((x, sum(y for _, y in near) / len(near)))
    return made


def line(axes: Any, series: Series, colour: str, *, dashed: bool = False, faint: bool = True) -> None:
    """Draw a series: faint as logged (thinned), bold as running mean over a thirtieth of it."""
    points = thin(series)
    if faint and len(points) > 8:
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.7, alpha=0.3)
    if points:
        mean = smooth(points, max(1, len(points) // 30))
        axes.plot(*zip(*mean, strict=True), color=colour, linewidth=1.8, linestyle=(0, (4, 2)) if dashed else "-")


def labels_at_end(axes: Any, items: Sequence[tuple[float, str, str]], size: float = 11) -> None:
    """Write (y, text, colour) to the right of the axes, pushed apart where they would overlap."""
    placed = _pushed_apart(axes, sorted(items), 1.25 * size)
    for y, (_, text, colour) in placed:
        axes.text(1.015, y, text, color=colour, transform=axes.transAxes, va="center", fontsize=size)


def labels_apart(axes: Any, items: Sequence[tuple[float, float, str]], size: float = 10.5) -> None:
    """Write texts to the right of the axes, one below another, each with a thin line to its (x, y)."""
    placed = _pushed_apart(axes, sorted((y, x, text) for x, y, text in items), 1.5 * size)
    for at, (y, x, text) in placed:
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 5}
        look = {"xycoords": "data", "textcoords": "axes fraction", "va": "center", "size": size, "zorder": 1}
        axes.annotate(text, (x, y), (1.02, at), arrowprops=line, **look)


def _pushed_apart(axes: Any, items: Sequence[Item], gap: float) -> list[tuple[float, Item]]:
    """Return items, sorted by the y that they begin with, each with its place up the axes, at least `gap` points apart.

    They are pushed upwards, and down again where the last one would stand above the axes.
    """
    low, high = axes.get_ylim()
    # The extent is in dots, the gap in points.
    share = gap / (axes.get_window_extent().height * 72 / axes.figure.dpi)
    places = [(one[0] - low) / (high - low) for one in items]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + share)
    limit = 1.0
    for index in range(len(places) - 1, -1, -1):
        places[index] = min(places[index], limit)
        limit = places[index] - share
    return list(zip(places, items, strict=True))


def across(axes: Any, names: Sequence[str], above: float = 0.6) -> None:
    """Turn axes into a chart of one line a name: names down the side, the grid along the values."""
    axes.set_yticks(range(len(names)), names)
    # Upside down, so that the first name stands at the top.
    axes.set_ylim(len(names) - 1 + above, -above)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def legend(axes: Any, entries: Sequence[tuple[str, str, str]], columns: int, wide: int, left: int) -> None:
    """Name (text, colour, marker) above the axes in rows of `columns`, each `wide`, from `left` of the axes on."""
    rows = -(-len(entries) // columns)
    for number, (text, colour, marker) in enumerate(entries):
        x, y = left + wide * (number % columns), 10 + 18 * (rows - 1 - number // columns)
        place = axes.transAxes + ScaledTranslation(x / 72, y / 72, axes.figure.dpi_scale_trans)
        axes.plot(0, 1, color=colour, marker=marker, markersize=6.5, transform=place, clip_on=False, linestyle="")
        axes.text(0, 1, text, transform=place + ScaledTranslation(9 / 72, 0, axes.figure.dpi_scale_trans), va="center")


def axis_names(axes: Any, x: str, y: str, up: int = 9) -> None:
    """Name the axes with their units: y `up` above its top, x below its right end."""
    axes.annotate(y, (0, 1), (0, up), xycoords="axes fraction", textcoords="offset points", color=MUTED, ha="left")
    axes.annotate(
        x,
        (1, 0),
        (0, -31),
        xycoords="axes fraction",
        textcoords="offset points",
        color=MUTED,
        ha="right",
        va="baseline",
    )
