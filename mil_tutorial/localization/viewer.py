"""An interactive view of one slide and its patch scores, for notebooks and for pages that open without a network."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from html import escape

import numpy as np

from mil_tutorial.files import written_whole
from mil_tutorial.geometry import as_coords
from mil_tutorial.slides.plots import encode_jpeg
from mil_tutorial.slides.reading import open_slide, read_overview, read_patch

PALETTE = "Viridis256"  # readable for colour-blind readers, and in grey

PANEL_PX = 380  # width of a panel's picture; its height follows the slide's shape

PICTURE_PX = 384  # side of a patch that is clicked on

PICTURES = 120  # patches whose picture is in the page: all of a small slide, else those of highest and lowest score

FIT = "new ResizeObserver(() => { if (frameElement) frameElement.style.height = document.documentElement.scrollHeight + 8 + 'px'; }).observe(document.body);"

HINT = "Click on a patch to see it close up."


def _pictures(slide, coords: np.ndarray, side: int, score: np.ndarray) -> dict[str, str]:
    """JPEGs in base64 by patch number."""
    order = np.argsort(-score, kind="stable")
    chosen = order if len(order) <= PICTURES else np.concatenate([order[: PICTURES // 2], order[-PICTURES // 2 :]])

    def encode(i: int) -> tuple[str, str]:
        rgb = read_patch(slide, *coords[i].tolist(), side, PICTURE_PX)
        return str(i), base64.b64encode(encode_jpeg(rgb, 80)).decode()

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(pool.map(encode, chosen.tolist()))


def _address(rgb: np.ndarray) -> str:
    """RGB (h, w, 3) as the address of a JPEG that lies in the page itself."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(rgb, 85)).decode()


def build_view(
    slide, coords: np.ndarray, patch_size_level0: int, scores: Mapping[str, np.ndarray], labels: np.ndarray | None = None,
    title: str = "", width_px: int = 1400,
):  # fmt: skip
    """Build the Bokeh layout; see `view_heatmap`."""
    from bokeh.layouts import column, row
    from bokeh.models import (
        ColorBar,
        ColumnDataSource,
        CustomJS,
        Div,
        HoverTool,
        LinearColorMapper,
        Range1d,
        Select,
        Slider,
        TapTool,
    )
    from bokeh.plotting import figure

    coords = as_coords(coords)
    if not len(coords):
        raise ValueError("no patches to show. Does the slide have tissue?")
    if labels is not None and (len(labels) != len(coords) or not np.isin(labels, (-1, 0, 1)).all()):
        raise ValueError(f"{len(labels)} labels for {len(coords)} patches, expected one of 1, 0, -1 for each.")
    scores = {str(k): np.asarray(v, np.float64) for k, v in scores.items()}
    for key, values in scores.items():
        if len(values) != len(coords) or not np.isfinite(values).all():
            raise ValueError(f"scores {key!r}: {len(values)} values for {len(coords)} patches, all must be finite.")
    if not scores:
        raise ValueError("no scores to show. Give at least one, such as {'attention': values}.")
    if isinstance(slide, (str, os.PathLike)):
        with open_slide(slide) as opened:
            width, height = opened.dimensions
            overview = read_overview(opened, max(1, max(width, height) / width_px), slide)
            pictures = _pictures(opened, coords, patch_size_level0, next(iter(scores.values())))
    else:
        width, height = slide.dimensions
        overview = read_overview(slide, max(1, max(width, height) / width_px))
        pictures = _pictures(slide, coords, patch_size_level0, next(iter(scores.values())))
    if (coords >= (width, height)).any():
        raise ValueError(f"patches lie outside this slide of {width} x {height} pixels. Are they of another slide?")
    first = next(iter(scores))
    names = {-1: "unknown", 0: "normal", 1: "tumour"}
    truth = np.full(len(coords), -1) if labels is None else np.asarray(labels)
    source = ColumnDataSource({
        "x": coords[:, 0] + patch_size_level0 / 2, "y": coords[:, 1] + patch_size_level0 / 2,
        "left": coords[:, 0], "top": coords[:, 1], "number": np.arange(len(coords)),
        "score": scores[first], "alpha": np.full(len(coords), 0.55),
        "truth": [names[int(t)] for t in truth], "truth_alpha": np.where(truth == 1, 0.55, 0.0),
        **{f"score {k}": v for k, v in scores.items()},
    })  # fmt: skip
    mapper = LinearColorMapper(
        palette=PALETTE,
        low=float(scores[first].min()),
        high=float(max(scores[first].max(), scores[first].min() + 1e-9)),
    )
    x_range, y_range = Range1d(0, width, bounds=(-width, 2 * width)), Range1d(height, 0)
    panels = [("Slide", None)] + ([("Ground truth", "truth")] if labels is not None else []) + [("Scores", "score")]
    picture = ColumnDataSource({"url": [_address(overview)]})
    plots = []
    for heading, kind in panels:
        plot = figure(frame_width=PANEL_PX, frame_height=round(PANEL_PX * height / width), x_range=x_range, y_range=y_range, title=heading,
                      tools="pan,wheel_zoom,reset,save", active_scroll="wheel_zoom", output_backend="canvas")  # fmt: skip
        plot.image_url("url", x=0, y=0, w=width, h=height, source=picture)  # y grows downwards, as in the slide
        box = {"x": "x", "y": "y", "width": patch_size_level0, "height": patch_size_level0, "source": source}
        if kind == "truth":
            squares = plot.rect(**box, fill_color="#d62728", fill_alpha="truth_alpha", line_color=None)
        elif kind == "score":
            squares = plot.rect(
                **box, fill_color={"field": "score", "transform": mapper}, fill_alpha="alpha", line_color=None
            )
            bar = ColorBar(color_mapper=mapper, title=first, location=(0, 0), orientation="horizontal", height=8)
            plot.add_layout(bar, "below")
        else:
            squares = plot.rect(**box, fill_alpha=0, line_color=None)
        squares.nonselection_glyph = squares.selection_glyph = None  # a click must not fade the others
        tips = [("patch", "@number"), ("level-0 x, y", "@left, @top"), ("score", "@score{0.000}"), ("label", "@truth")]
        plot.add_tools(HoverTool(renderers=[squares], tooltips=tips), TapTool(renderers=[squares]))
        plot.xaxis.visible = plot.yaxis.visible = False
        plot.grid.visible = False
        plots.append(plot)
    lows = {k: float(v.min()) for k, v in scores.items()}
    highs = {k: float(max(v.max(), v.min() + 1e-9)) for k, v in scores.items()}
    menu = Select(title="Score", value=first, options=list(scores), width=200)
    opacity = Slider(title="Opacity", start=0, end=1, step=0.05, value=0.55, width=200)
    threshold = Slider(title="Show scores from (share of the range)", start=0, end=1, step=0.02, value=0, width=240)
    update = CustomJS(args={"source": source, "mapper": mapper, "menu": menu, "opacity": opacity, "threshold": threshold,
                            "bar": bar, "lows": lows, "highs": highs}, code="""
        const key = menu.value, d = source.data, chosen = d['score ' + key];
        const low = lows[key], high = highs[key], least = low + threshold.value * (high - low);
        mapper.low = low; mapper.high = high; bar.title = key;
        d['score'] = chosen;
        d['alpha'] = Array.from(chosen, v => v >= least ? opacity.value : 0);
        source.change.emit();
    """)  # fmt: skip
    for control in (menu, opacity, threshold):
        control.js_on_change("value", update)
    close_up = Div(text=HINT, width=PICTURE_PX)
    source.selected.js_on_change("indices", CustomJS(args={"source": source, "pictures": pictures, "target": close_up, "hint": HINT}, code="""
        const i = cb_obj.indices[0], d = source.data;
        if (i === undefined) { target.text = hint; return; }
        const picture = pictures[i] ? `<img alt="patch ${i}" src="data:image/jpeg;base64,${pictures[i]}">`
                                    : '<i>Only the patches of highest and lowest score are in this page.</i>';
        target.text = `<b>patch ${i}</b>, x ${d['left'][i]}, y ${d['top'][i]}<br>score ${d['score'][i].toFixed(3)}, ${d['truth'][i]}<br>${picture}`;
    """))  # fmt: skip
    heading = Div(text=f"<h3>{escape(title)}</h3>") if title else None
    wrap = {"flex-wrap": "wrap"}  # on a narrow screen one below the other
    parts = [heading, row(menu, opacity, threshold, styles=wrap), row(*plots, styles=wrap), close_up]
    return column(*[p for p in parts if p is not None], name="heatmap", sizing_mode="stretch_width")


def view_heatmap(
    slide, coords: np.ndarray, patch_size_level0: int, scores: Mapping[str, np.ndarray], labels: np.ndarray | None = None,
    title: str = "", html: str | os.PathLike | None = None,
):  # fmt: skip
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
        ValueError: no scores, or scores of another length, NaN or infinite.
    """
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    view = build_view(slide, coords, patch_size_level0, scores, labels, title)
    page = file_html(view, INLINE, escape(title or "Heatmap"))
    if html is not None:
        with written_whole(html) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return
    from IPython.display import HTML, display

    # A page in a frame: the same in JupyterLab, on Colab and in a saved notebook, with no extension and no network.
    head, end, tail = page.rpartition("</body>")  # the last one: BokehJS holds others as text
    page = f"{head}<script>{FIT}</script>{end}{tail}"
    frame = f'<iframe title="{escape(title or "Heatmap")}" style="width:100%;height:640px;border:0" srcdoc="{escape(page)}"></iframe>'
    display(HTML(f"<div>{frame}</div>"))
