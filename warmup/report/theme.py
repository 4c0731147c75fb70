"""How figures look, and how one becomes an SVG that follows the page's light or dark colours."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

COLOURS = {
    "ink": ("#1f2328", "#e6e9ed"),
    "muted": ("#5b6470", "#9da7b3"),
    "grid": ("#dfe3e8", "#343b44"),
    "surface": ("#ffffff", "#181c22"),
    "blue": ("#1f66d1", "#6cabff"),
    "orange": ("#c2570c", "#ffa057"),
    "green": ("#1b7f3b", "#5fcf86"),
    "red": ("#c1272d", "#ff7f7f"),
    "purple": ("#7a3fd0", "#bb98ff"),
    "teal": ("#0b7a85", "#4fd0dc"),
    "pink": ("#b0307e", "#ff8ccb"),
    "olive": ("#75700a", "#d3cb4e"),
}
"""What each colour is on a light page and on a dark one."""
LINES = ("blue", "orange", "green", "purple", "red", "teal", "pink", "olive")
"""Colours for lines that are compared."""
_WIDTH, _HEIGHT = 5.8, 3.5  # inches of 72 units: about what a phone shows, so that letters stay readable there
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 11,
    "text.parse_math": False,  # a name with dollar signs is a name
    "svg.fonttype": "none",  # text stays text
    "path.simplify_threshold": 0.2,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlecolor": COLOURS["ink"][0],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}
_SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def light(name: str) -> str:
    """A colour on a light page, which figures are drawn in."""
    return COLOURS[name][0]


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of the report, with no warning of letters that matplotlib's font lacks: browsers have them."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def new_figure(title: str, x: str, y: str, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes, to be called within `style`.

    Args:
        title: what is shown.
        x: the label of the horizontal axis.
        y: that of the vertical one.
        height: in inches.
    """
    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.add_axes((0.125, 0.52 / height, 0.845, 1 - (0.52 + 0.36) / height))
    axes.set_title(title, loc="left", x=-0.13, pad=10)
    axes.set_xlabel(x, color=light("muted"))
    axes.set_ylabel(y, color=light("muted"))
    axes.grid(color=light("grid"), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=light("muted"), length=0)
    for spine in axes.spines.values():
        spine.set_color(light("grid"))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.set_facecolor("none")
    figure.patch.set_alpha(0)
    return figure, axes


def legend(axes: Axes, columns: int = 5) -> None:
    """Name the lines in rows between the title and the plot, where they cover nothing. The figure grows by them."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    rows = -(-len(handles) // columns)
    extra = 0.12 + 0.2 * rows  # inches
    figure, (left, bottom, width, height) = axes.get_figure(), axes.get_position().bounds
    assert isinstance(figure, Figure)
    old = figure.get_figheight()
    figure.set_figheight(old + extra)
    axes.set_position((left, bottom * old / (old + extra), width, height * old / (old + extra)))
    axes.set_title(axes.get_title(loc="left"), loc="left", pad=10 + 72 * extra)
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(-0.135, 1.0), ncols=columns, labelcolor=light("ink"),
        borderaxespad=0.6, borderpad=0.1, handlelength=1.3, handletextpad=0.5, columnspacing=1.2, labelspacing=0.35,
    )  # fmt: skip


def compact(value: float) -> str:
    """A number in few letters: 1.5M, 20k, 0.35, 3e-05."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def printable(text: str) -> str:
    """A line of text, with a mark for each letter that cannot be shown."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def shorten(text: str, length: int = 24) -> str:
    """A name on one line, with its end cut off if it is long."""
    text = printable(text)
    return text if 0 < len(text) <= length else text[: length - 1] + "\u2026" if text else "(empty)"


def to_svg(figure: Figure, label: str) -> str:
    """A figure as an <svg> element for a page: no font, script or address in it, colours by the names of COLOURS.

    Args:
        figure: drawn with the light colours.
        label: what it shows, for those who cannot see it.
    """
    file = io.StringIO()
    with style(), matplotlib.rc_context({"svg.hashsalt": label}):  # ids must differ between the figures of a page
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    used = set(re.findall(r"#([\w-]+)", file.getvalue()))
    for element in root.iter():
        _slim(element, used)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def to_png(figure: Figure) -> bytes:
    """A figure as a picture on white."""
    file = io.BytesIO()
    with style():
        figure.savefig(file, format="png", dpi=200, facecolor="white")
    return file.getvalue()


def css_variables(dark: bool) -> str:
    """The colours as variables of CSS."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in COLOURS.items())


_NAME_OF = {pair[0]: name for name, pair in COLOURS.items()}


def _slim(element: ElementTree.Element, used: set[str]) -> None:
    """Round coordinates, name colours, and drop ids that nothing refers to."""
    if element.get("id") not in used:
        element.attrib.pop("id", None)
    if (path := element.get("d")) is not None:
        element.set("d", re.sub(r"\s+", " ", re.sub(r"(\.\d)\d+", r"\1", path)))
    if (css := element.get("style")) is not None:
        css = re.sub(r"font: [^;]*?(bold )?([\d.]+)px[^;]*", r"font: \1\2px var(--font)", css)
        element.set("style", re.sub("#[0-9a-f]{6}", lambda found: _variable(found[0]), css))


def _variable(colour: str) -> str:
    return f"var(--{_NAME_OF[colour]})" if colour in _NAME_OF else colour
