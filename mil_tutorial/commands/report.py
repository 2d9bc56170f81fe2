"""One page that shows what `mil-tutorial evaluate` and `localize` found: tables and images in a single HTML file."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from mil_tutorial.evaluation.calibration import reliability
from mil_tutorial.evaluation.metrics import Estimate, roc_points
from mil_tutorial.files import written_whole
from mil_tutorial.style import NORMAL, TUMOR, use_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .75rem;border-bottom:1px solid #ddd;text-align:left}
img{max-width:100%;height:auto}figure{margin:1.5rem 0}figcaption{color:#555}
"""


def table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """An HTML table; every cell is text."""

    def line(cells: Iterable[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{line(header, 'th')}{''.join(line(r, 'td') for r in rows)}</table>"


def picture(data: bytes, caption: str, kind: str = "png") -> str:
    """An image inside the page, with its caption as alternative text."""
    source, text = f"data:image/{kind};base64,{base64.b64encode(data).decode()}", escape(caption)
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


def write_page(path: str | os.PathLike[str], title: str, parts: Iterable[str]) -> None:
    """Write the page; `parts` are HTML."""
    heading = escape(title)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{heading}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{heading}</h1>{''.join(parts)}</body></html>"
    )
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def metrics_table(metrics: Mapping[str, Estimate]) -> str:
    """Metrics with their 95 % intervals."""
    rows = [(k.replace("_", " "), f"{e.value:.3f}", f"{e.low:.3f} to {e.high:.3f}") for k, e in metrics.items()]
    return table(("metric", "value", "95 % interval over slides"), rows)


def evaluation_figure(y: np.ndarray, prob: np.ndarray, threshold: float) -> Figure:
    """ROC curve, reliability plot and every slide's probability, side by side.

    It is drawn without pyplot and in its own style, so that matplotlib's settings in this process stay as they are.

    Args:
        y: labels, (n,).
        prob: predicted probabilities, (n,).
        threshold: a slide is predicted to hold tumour above it.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        use_style()
        figure = Figure(figsize=(13, 3.6))
        FigureCanvasAgg(figure)
        roc, bins, slides = figure.subplots(1, 3)
        _draw_roc(roc, y, prob, threshold)
        _draw_reliability(bins, y, prob)
        _draw_slides(slides, y, prob, threshold)
    return figure


def _draw_roc(axes: Axes, y: np.ndarray, prob: np.ndarray, threshold: float) -> None:
    if 0 < np.sum(y) < len(y):
        axes.plot(*roc_points(y, prob), color=NORMAL)
        predicted = prob > threshold
        at = (float(np.mean(predicted[y == 0])), float(np.mean(predicted[y == 1])))
        axes.plot(*at, "o", color=TUMOR, label=f"threshold {threshold:.2f}")
        axes.legend(loc="lower right")
    axes.plot([0, 1], [0, 1], color="#999999", lw=1, ls="--")
    axes.set(title="ROC curve", xlabel="false positive rate", ylabel="sensitivity", aspect="equal")


def _draw_reliability(axes: Axes, y: np.ndarray, prob: np.ndarray) -> None:
    bins = reliability(y, prob)
    axes.plot([0, 1], [0, 1], color="#999999", lw=1, ls="--")
    axes.scatter(bins["prob"], bins["frequency"], s=20 * bins["n"], color=NORMAL, alpha=0.7)
    axes.set(title="Reliability (size: slides in the bin)", xlabel="predicted probability")
    axes.set(ylabel="fraction with tumour", xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), aspect="equal")


def _draw_slides(axes: Axes, y: np.ndarray, prob: np.ndarray, threshold: float) -> None:
    for value, color, label in ((0, NORMAL, "normal"), (1, TUMOR, "tumour")):
        chosen = np.sort(prob[y == value])
        axes.plot(chosen, np.linspace(0, 1, len(chosen)) + 1.2 * value, "o", color=color, label=label, alpha=0.7)
    axes.axvline(threshold, color="black", lw=1, ls="--")
    axes.set(title="Every slide", xlabel="predicted probability", yticks=[], xlim=(-0.02, 1.02))
    axes.legend(loc="center")


def png(figure: Figure) -> bytes:
    """A matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
