"""An interactive view of one slide and its patch scores, for notebooks and for pages that open without a network."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import openslide
from numpy.typing import ArrayLike

from mil_tutorial.errors import Found, require, require_integer
from mil_tutorial.files import written_whole
from mil_tutorial.geometry import as_coords, as_labels, as_named_scores
from mil_tutorial.slides.far import fetch_patches
from mil_tutorial.slides.plots import LABEL_NAMES, encode_jpeg
from mil_tutorial.slides.reading import opened, read_overview, read_patch

if TYPE_CHECKING:  # Bokeh is needed by those who look, not by those who import
    from bokeh.models import ColorBar, ColumnDataSource, LayoutDOM, LinearColorMapper
    from bokeh.plotting import figure as Figure

PALETTE = "Viridis256"  # readable for colour-blind readers, and in grey

PANEL_PX = 380  # width of a panel's image; its height follows the slide's shape

TOOLBAR_PX = 35  # width of the buttons beside it

CLOSE_UP_PX = 384  # side of a patch that is clicked on

CLOSE_UPS = 120  # patches whose image is in the page: all of a small slide, else those of highest and lowest score

OPACITY = 0.55  # of the colours, at first

# The frame gets the height of what is in it. Bokeh's page is at least as high as its frame, which would then grow for
# ever.
FIT = """
    document.documentElement.style.height = document.body.style.height = 'auto';
    new ResizeObserver(() => {
        if (frameElement) frameElement.style.height = Math.ceil(document.body.getBoundingClientRect().height) + 16 +
        'px';
    }).observe(document.body);
"""

HINT = "Click on a patch to see it close up."

TIPS = [("patch", "@number"), ("level-0 x, y", "@left, @top"), ("score", "@score{0.000}"), ("label", "@truth")]

SHOW_SCORES = """
    const key = menu.value, d = source.data, chosen = d['score ' + key];
    const low = lows[key], high = highs[key], least = low + threshold.value * (high - low);
    mapper.low = low; mapper.high = high; bar.title = key;
    d['score'] = chosen;
    d['alpha'] = Array.from(chosen, v => v >= least ? opacity.value : 0);
    source.change.emit();
"""

SHOW_CLOSE_UP = """
    const i = cb_obj.indices[0], d = source.data;
    if (i === undefined) { target.text = hint; return; }
    const picture = pictures[i] ? `<img alt="patch ${i}" src="data:image/jpeg;base64,${pictures[i]}">`
                                : '<i>Only the patches of highest and lowest score are in this page.</i>';
    const place = `<b>patch ${i}</b>, x ${d['left'][i]}, y ${d['top'][i]}`;
    target.text = `${place}<br>score ${d['score'][i].toFixed(3)}, ${d['truth'][i]}<br>${picture}`;
"""


def _base64(rgb: np.ndarray, quality: int) -> str:
    """RGB (h, w, 3) as a JPEG in base64."""
    return base64.b64encode(encode_jpeg(rgb, quality=quality)).decode()


def _close_ups(
    slide: openslide.AbstractSlide, path: str, coords: np.ndarray, side: int, score: np.ndarray
) -> dict[str, str]:
    """JPEGs in base64 by patch number."""
    order = np.argsort(-score, kind="stable")
    if len(order) > CLOSE_UPS:
        order = np.concatenate([order[: CLOSE_UPS // 2], order[-CLOSE_UPS // 2 :]])

    def encode(i: int) -> tuple[str, str]:
        x, y = coords[i].tolist()
        return str(i), _base64(read_patch(slide, x, y, side, px=CLOSE_UP_PX, path=path), 80)

    fetch_patches(slide, coords[order], side, CLOSE_UP_PX)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(pool.map(encode, order.tolist()))


def _patch_source(
    coords: np.ndarray, side: int, scores: Mapping[str, np.ndarray], truth: np.ndarray
) -> ColumnDataSource:
    """What the page knows of each patch; `score` and `alpha` are those that are shown."""
    from bokeh.models import ColumnDataSource

    return ColumnDataSource(
        {
            "x": coords[:, 0] + side / 2,
            "y": coords[:, 1] + side / 2,
            "left": coords[:, 0],
            "top": coords[:, 1],
            "number": np.arange(len(coords)),
            "score": next(iter(scores.values())),
            "alpha": np.full(len(coords), OPACITY),
            "truth": [LABEL_NAMES[int(t)] for t in truth],
            "truth_alpha": np.where(truth == 1, OPACITY, 0.0),
            **{f"score {k}": v for k, v in scores.items()},
        }
    )


def _empty_panels(overview: np.ndarray, size: tuple[int, int], headings: list[str]) -> list[Figure]:
    """One figure for each heading that shows the slide of `size` = width, height; they pan and zoom together."""
    from bokeh.models import ColumnDataSource, Range1d
    from bokeh.plotting import figure

    width, height = size
    ranges = {"x_range": Range1d(0, width, bounds=(-width, 2 * width)), "y_range": Range1d(height, 0)}
    image = ColumnDataSource({"url": ["data:image/jpeg;base64," + _base64(overview, 85)]})
    panels = []
    for heading in headings:
        panel = figure(
            frame_width=PANEL_PX,
            frame_height=round(PANEL_PX * height / width),
            title=heading,
            tools="pan,wheel_zoom,reset,save",
            active_scroll="wheel_zoom",
            output_backend="canvas",
            # A row that wraps would stretch its panels wider than their canvas; a phone is narrower than a panel.
            styles={"flex": "0 0 auto", "width": f"min({PANEL_PX + TOOLBAR_PX}px, 100%)"},
            **ranges,
        )
        panel.image_url("url", x=0, y=0, w=width, h=height, source=image)  # y grows downwards, as in the slide
        panel.xaxis.visible = panel.yaxis.visible = False
        panel.grid.visible = False
        panels.append(panel)
    return panels


def _add_squares(panel: Figure, source: ColumnDataSource, side: int, **look: object) -> None:
    """The patches as squares that tell of themselves and can be clicked on."""
    from bokeh.models import HoverTool, TapTool

    squares = panel.rect(x="x", y="y", width=side, height=side, source=source, **look)
    squares.nonselection_glyph = squares.selection_glyph = None  # a click must not fade the others
    panel.add_tools(HoverTool(renderers=[squares], tooltips=TIPS), TapTool(renderers=[squares]))


def _panels(
    overview: np.ndarray,
    size: tuple[int, int],
    source: ColumnDataSource,
    side: int,
    mapper: LinearColorMapper,
    *,
    with_truth: bool,
) -> list[Figure]:
    """Slide, ground truth where there is one, and scores, side by side."""
    panels = _empty_panels(overview, size, ["Slide", *(["Ground truth"] if with_truth else []), "Scores"])
    _add_squares(panels[0], source, side, fill_alpha=0, line_color=None)
    if with_truth:
        _add_squares(panels[1], source, side, fill_color="#d62728", fill_alpha="truth_alpha", line_color=None)
    color = {"field": "score", "transform": mapper}
    _add_squares(panels[-1], source, side, fill_color=color, fill_alpha="alpha", line_color=None)
    return panels


def _controls(
    scores: Mapping[str, np.ndarray], source: ColumnDataSource, mapper: LinearColorMapper, bar: ColorBar
) -> list[LayoutDOM]:
    """Menu of the scores, opacity and threshold, which change what the last panel shows."""
    from bokeh.models import CustomJS, Select, Slider

    menu = Select(title="Score", value=next(iter(scores)), options=list(scores), width=200)
    opacity = Slider(title="Opacity", start=0, end=1, step=0.05, value=OPACITY, width=200)
    title = "Show scores from (share of the range)"
    threshold = Slider(title=title, start=0, end=1, step=0.02, value=0, width=240)
    ends = {key: _ends(score) for key, score in scores.items()}
    lows, highs = ({key: pair[i] for key, pair in ends.items()} for i in (0, 1))
    known = {"source": source, "mapper": mapper, "bar": bar, "lows": lows, "highs": highs}
    update = CustomJS(args={**known, "menu": menu, "opacity": opacity, "threshold": threshold}, code=SHOW_SCORES)
    for control in (menu, opacity, threshold):
        control.js_on_change("value", update)
    return [menu, opacity, threshold]


def _ends(score: np.ndarray) -> tuple[float, float]:
    """The ends of a score's colour map, which must differ."""
    return float(score.min()), float(max(score.max(), score.min() + 1e-9))


def build_view(
    slide: openslide.AbstractSlide | str | os.PathLike[str],
    coords: ArrayLike,
    patch_size_level0: int,
    scores: Mapping[str, ArrayLike],
    labels: ArrayLike | None = None,
    *,
    title: str = "",
    width_px: int = 1400,
) -> LayoutDOM:
    """Build the Bokeh layout; see `view_heatmap`."""
    from bokeh.layouts import column, row
    from bokeh.models import ColorBar, CustomJS, Div, LinearColorMapper

    require_integer("patch_size_level0", patch_size_level0, low=1)
    coords = as_coords(coords)
    n = len(coords)
    require(n > 0, "coords", Found("no patches"), "at least one. Does the slide have tissue?")
    truth = np.full(n, -1) if labels is None else as_labels(labels, n)
    values = as_named_scores(scores, n, parameter="scores")
    require(bool(values), "scores", Found("none"), "at least one, such as {'attention': values}")
    first = next(iter(values))
    with opened(slide) as (reader, path):
        width, height = reader.dimensions
        outside = int((coords >= (width, height)).any(1).sum())
        found = Found(f"{outside} patches outside this slide of {width} x {height} pixels")
        require(not outside, "coords", found, "patches of this slide")
        overview = read_overview(reader, max(1, max(width, height) / width_px), path=path)
        close_ups = _close_ups(reader, path, coords, patch_size_level0, values[first])
    source = _patch_source(coords, patch_size_level0, values, truth)
    low, high = _ends(values[first])
    mapper = LinearColorMapper(palette=PALETTE, low=low, high=high)
    panels = _panels(overview, (width, height), source, patch_size_level0, mapper, with_truth=labels is not None)
    bar = ColorBar(color_mapper=mapper, title=first, location=(0, 0), orientation="horizontal", height=8)
    panels[-1].add_layout(bar, "below")
    close_up = Div(text=HINT, width=CLOSE_UP_PX)
    known = {"source": source, "pictures": close_ups, "target": close_up, "hint": HINT}
    source.selected.js_on_change("indices", CustomJS(args=known, code=SHOW_CLOSE_UP))
    wrap = {"flex-wrap": "wrap"}  # on a narrow screen one below the other
    parts = [row(*_controls(values, source, mapper, bar), styles=wrap), row(*panels, styles=wrap), close_up]
    if title:
        parts.insert(0, Div(text=f"<h3>{escape(title)}</h3>"))
    return column(*parts, name="heatmap", sizing_mode="stretch_width")


def view_heatmap(
    slide: openslide.AbstractSlide | str | os.PathLike[str],
    coords: ArrayLike,
    patch_size_level0: int,
    scores: Mapping[str, ArrayLike],
    labels: ArrayLike | None = None,
    *,
    title: str = "",
    html: str | os.PathLike[str] | None = None,
) -> None:
    """Show slide, ground truth and patch scores side by side, with linked pan and zoom; a click shows a patch close up.

    Args:
        slide: an open slide or its path.
        coords: (n, 2) x, y of the patches in level-0 pixels.
        patch_size_level0: side of a patch.
        scores: name -> (n,) finite values; the first is shown, a menu changes it.
        labels: (n,) 1 tumour, 0 normal, -1 unknown.
        title: of the page.
        html: write one self-contained file there that opens without a network; else show in the notebook.

    Raises:
        ParameterError: no scores, or scores of another length, NaN or infinite; no patches, or some outside the slide.
        DataError: the slide cannot be read.
    """
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    view = build_view(slide, coords, patch_size_level0, scores, labels, title=title)
    name = escape(title or "Heatmap")
    # Alone or in a frame (in JupyterLab, on Colab, in a saved notebook, on the website): no extension and no network.
    head, end, tail = file_html(view, INLINE, name).rpartition("</body>")  # the last one: BokehJS holds others as text
    page = f"{head}<script>{FIT}</script>{end}{tail}"
    if html is not None:
        with written_whole(html) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return
    from IPython.display import HTML, display

    look = "width:100%;height:640px;border:0"
    display(HTML(f'<div><iframe title="{name}" style="{look}" srcdoc="{escape(page)}"></iframe></div>'))
