"""One page that shows what `mil-tutorial evaluate` and `localize` found: tables and pictures in a single HTML file."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from mil_tutorial.evaluation.calibration import reliability
from mil_tutorial.evaluation.metrics import Estimate, roc_points
from mil_tutorial.files import written_whole
from mil_tutorial.style import NORMAL, TUMOR, use_style

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .75rem;border-bottom:1px solid #ddd;text-align:left}
img{max-width:100%;height:auto}figure{margin:1.5rem 0}figcaption{color:#555}
"""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; every cell is text."""

    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{line(header, 'th')}{''.join(line(r, 'td') for r in rows)}</table>"


def picture(data: bytes, caption: str, kind: str = "png") -> str:
    """An image inside the page, with its caption as alternative text."""
    code = base64.b64encode(data).decode()
    return f'<figure><img alt="{escape(caption)}" src="data:image/{kind};base64,{code}"><figcaption>{escape(caption)}</figcaption></figure>'


def write_page(path: str | os.PathLike, title: str, parts: Iterable[str]) -> None:
    """Write the page; `parts` are HTML."""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>{''.join(parts)}</body></html>"
    )
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def metrics_table(metrics: dict[str, Estimate]) -> str:
    """Metrics with their 95 % intervals."""
    rows = [(k.replace("_", " "), f"{e.value:.3f}", f"{e.low:.3f} to {e.high:.3f}") for k, e in metrics.items()]
    return table(("metric", "value", "95 % interval over slides"), rows)


def evaluation_figure(y: np.ndarray, prob: np.ndarray, threshold: float):
    """ROC curve, reliability plot and every slide's probability, side by side; matplotlib's figure."""
    import matplotlib.pyplot as plt

    use_style()
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    if 0 < np.sum(y) < len(y):
        axes[0].plot(*roc_points(y, prob), color=NORMAL)
        called = prob > threshold
        at = (np.mean(called[y == 0]), np.mean(called[y == 1]))
        axes[0].plot(*at, "o", color=TUMOR, label=f"threshold {threshold:.2f}")
        axes[0].legend(loc="lower right")
    axes[0].plot([0, 1], [0, 1], color="#999999", lw=1, ls="--")
    axes[0].set(title="ROC curve", xlabel="false positive rate", ylabel="sensitivity", aspect="equal")
    bins = reliability(y, prob)
    axes[1].plot([0, 1], [0, 1], color="#999999", lw=1, ls="--")
    axes[1].scatter(bins["prob"], bins["frequency"], s=20 * bins["n"], color=NORMAL, alpha=0.7)
    axes[1].set(title="Reliability (size: slides in the bin)", xlabel="said probability", ylabel="share with tumour")
    axes[1].set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), aspect="equal")
    for value, color, label in ((0, NORMAL, "normal"), (1, TUMOR, "tumour")):
        chosen = np.sort(prob[y == value])
        axes[2].plot(chosen, np.linspace(0, 1, len(chosen)) + 1.2 * value, "o", color=color, label=label, alpha=0.7)
    axes[2].axvline(threshold, color="black", lw=1, ls="--")
    axes[2].set(title="Every slide", xlabel="said probability", yticks=[], xlim=(-0.02, 1.02))
    axes[2].legend(loc="center")
    return figure


def png(figure) -> bytes:
    """A matplotlib figure as PNG; the figure is closed."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()
