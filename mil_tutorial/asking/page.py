"""The answer as HTML: a card for notebooks, and one page that opens by a double click, in light and dark."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from mil_tutorial.asking.answer import CONTRIBUTION, SHARE, SlideAnswer
from mil_tutorial.asking.known import false_alarms
from mil_tutorial.slides.far import fetch_patches
from mil_tutorial.slides.plots import encode_jpeg, read_thumbnail, to_rgb
from mil_tutorial.slides.reading import open_slide, read_patch
from mil_tutorial.style import AGAINST, FOR

SHOWN = 6  # patches for tumour, and as many against it

PATCH_PX, MAP_PX = 224, 1000

ZOOM = "<!-- zoom -->"  # where the page has a link that a notebook cannot have

STYLE = """
.ask{color-scheme:light dark;--bg:light-dark(#fff,#14181d);--ink:light-dark(#1b1f24,#e6edf3);
--soft:light-dark(#57606a,#a3adb8);--line:light-dark(#d0d7de,#3a434d);--panel:light-dark(#f6f8fa,#1e242b);
--accent:light-dark(#0b5cad,#7cb8ff);--bad:light-dark(#8f2d00,#ffb38a);--bad-bg:light-dark(#fff1e8,#3a1d10);
--odd:light-dark(#6a4a00,#f2d479);--odd-bg:light-dark(#fff8dd,#352b0c);
--good:light-dark(#0a5c3e,#7fdcb4);--good-bg:light-dark(#e8f7f0,#10301f);
font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--bg);
max-width:62rem;margin:0 auto;padding:1rem;box-sizing:border-box;overflow-wrap:anywhere}
:is([data-theme=light],[theme=light],[data-jp-theme-light=true],[data-vscode-theme-kind=vscode-light]) .ask{
color-scheme:light}
:is([data-theme=dark],[theme=dark],[data-jp-theme-light=false],[data-vscode-theme-kind=vscode-dark]) .ask{
color-scheme:dark}
html:has(>body>.ask){color-scheme:light dark;background:light-dark(#fff,#14181d)}
.ask h1{font-size:1.5rem;line-height:1.25;margin:.2rem 0 .4rem}.ask h2{font-size:1.15rem;margin:1.8rem 0 .5rem}
.ask h1,.ask h2{color:inherit}
.ask p{margin:.4rem 0}.ask a{color:var(--accent)}.ask small,.ask figcaption{color:var(--soft);font-size:.9rem}
.ask figcaption{font-weight:400;text-align:left}
.ask .verdict{font-size:1.25rem;font-weight:600;margin:.2rem 0}
.ask .box{border-left:.35rem solid;border-radius:.3rem;padding:.6rem .9rem;margin:.8rem 0}
.ask .box b{display:block}.ask .box ul{margin:.3rem 0 0;padding-left:1.2rem}
.ask .unlike{color:var(--bad);background:var(--bad-bg);border-color:var(--bad)}
.ask .unusual,.ask .unknown{color:var(--odd);background:var(--odd-bg);border-color:var(--odd)}
.ask .like{color:var(--good);background:var(--good-bg);border-color:var(--good)}
.ask .scale{display:block;width:100%;max-width:36rem;height:auto;color:var(--ink)}
.ask figure{margin:.6rem 0}.ask img{display:block;max-width:100%;height:auto;border-radius:.25rem}
.ask .map img{max-height:34rem;width:auto}
.ask .bar{height:.8rem;max-width:24rem;border:1px solid var(--line);border-radius:.2rem}
.ask .ends{display:flex;justify-content:space-between;max-width:24rem;color:var(--soft);font-size:.9rem}
.ask .patches{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));gap:.7rem;margin:.5rem 0}
.ask .patches figure{margin:0}.ask .patches img{width:100%}
.ask table{border-collapse:collapse;width:100%;margin:.5rem 0}
.ask td,.ask th{overflow-wrap:normal;padding:.35rem .6rem;border-bottom:1px solid var(--line);
text-align:left;vertical-align:top}
.ask .tag{border-radius:.25rem;padding:.05rem .4rem;font-size:.9rem;white-space:nowrap}
@media (max-width:40rem){.ask{padding:.7rem}.ask thead{display:none}
.ask tr{display:block;border-bottom:1px solid var(--line);padding:.4rem 0}
.ask td{display:block;overflow-wrap:anywhere;border:0;padding:.05rem 0}
.ask td::before{content:attr(data-head);color:var(--soft);font-size:.85rem;display:block}
.ask .patches{grid-template-columns:repeat(auto-fill,minmax(6.5rem,1fr))}}
"""


def draw_card(answer: SlideAnswer) -> str:
    """HTML of the verdict, the warnings, the map and the patches that decided, with its style and pictures in it."""
    parts = [_heading(answer), _warnings(answer), _map(answer), _deciding(answer)]
    return f'<div class="ask"><style>{STYLE}</style>{"".join(parts)}</div>'


def draw_page(answer: SlideAnswer, files: Sequence[tuple[str, str]]) -> str:
    """The whole page: the card, the comparison with the training slides, and what the model is for.

    Args:
        answer: with its card.
        files: beside the page: names, and what is in them; the first is the slide to zoom into.
    """
    rows = [(f'<a href="{escape(name)}">{escape(name)}</a>', escape(what)) for name, what in files]
    written = "<h2>Files beside this page</h2>" + _table(("file", "what is in it"), rows)
    link = f'<p><a href="{escape(files[0][0])}">Zoom into the slide</a>, down to its cells.</p>'
    body = (
        answer.card.replace(ZOOM, link).removesuffix("</div>")
        + _comparison(answer)
        + _models(answer)
        + written
        + "</div>"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,'
        f'initial-scale=1"><title>{escape(answer.name)}: one slide asked</title><style>body{{margin:0}}</style></head>'
        f"<body>{body}</body></html>"
    )


def _heading(answer: SlideAnswer) -> str:
    says = "tumour" if answer.tumour else "no tumour"
    side = "above" if answer.tumour else "not above"
    many = len(answer.answers)
    low, high = answer.spread
    of = f" Mean of {many} checkpoints, which say {low:.3f} to {high:.3f}." if many > 1 else ""
    return (
        f"<small>One slide, asked with mil-tutorial. For teaching and research; not a diagnosis.</small>"
        f"<h1>{escape(answer.name)}</h1>"
        f'<p class="verdict">The model predicts {says}: probability {answer.probability:.3f}</p>'
        f"<p>It is {side} the threshold {answer.threshold:.3f}, which was chosen on validation slides.{of}</p>"
        f"{_scale(answer)}"
    )


def _scale(answer: SlideAnswer) -> str:
    """The probabilities on a line from 0 to 1, with the threshold."""
    left, width = 20, 560

    def x(value: float) -> float:
        return left + width * value

    values = [a.probability for a in answer.answers]
    told = f"Probability {answer.probability:.3f} on a line from 0 to 1, threshold {answer.threshold:.3f}"
    if len(values) > 1:
        told += f", single checkpoints from {min(values):.3f} to {max(values):.3f}"
    dots = "".join(f'<circle cx="{x(v):.1f}" cy="34" r="5" fill="none" stroke="currentColor"/>' for v in values)
    at, mark = x(answer.threshold), x(answer.probability)
    anchor = "start" if answer.threshold < 0.1 else "end" if answer.threshold > 0.9 else "middle"
    return (
        f'<svg class="scale" viewBox="0 0 600 64" role="img" aria-label="{told}"><title>{told}</title>'
        f'<path d="M{left} 34h{width}" stroke="currentColor" stroke-width="2" opacity=".5"/>'
        f'<path d="M{at:.1f} 22v24" stroke="currentColor" stroke-width="2" stroke-dasharray="4 3"/>{dots}'
        f'<circle cx="{mark:.1f}" cy="34" r="8" fill="#D55E00"/>'
        f'<g fill="currentColor" font-size="14"><text x="{left}" y="60">0</text>'
        f'<text x="{left + width}" y="60" text-anchor="end">1</text>'
        f'<text x="{at:.1f}" y="15" text-anchor="{anchor}">threshold</text></g></svg>'
    )


def _warnings(answer: SlideAnswer) -> str:
    """What speaks against believing the answer, or that nothing was found that does."""
    verdicts = {c.verdict for c in answer.comparisons}
    kind = next((v for v in ("unlike", "unusual") if v in verdicts), "like")
    heading = {
        "unlike": "This slide is unlike the training slides: do not believe the answer.",
        "unusual": "This slide is unusual among the training slides: doubt the answer.",
        "like": "Nothing measured here sets this slide apart from the training slides.",
    }[kind]
    items = answer.warnings
    if not answer.comparisons:
        kind, heading = "unknown", "Whether this slide is like the training slides is not known."
    elif kind == "like" and items:
        kind, heading = "unusual", "Read this before you use the answer."
    if all(m.known is not None and m.known.synthetic for m in answer.models):
        items = [*items, "The model has seen synthetic slides only. About real tissue its answer means nothing."]
    items = [*items, *answer.notes]
    told = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<div class="box {kind}" role="note"><b>{heading}</b>{f"<ul>{told}</ul>" if told else ""}</div>'


def _picture(rgb: np.ndarray, alt: str, caption: str, *, quality: int = 85) -> str:
    source = base64.b64encode(encode_jpeg(rgb, quality)).decode()
    height, width = rgb.shape[:2]
    image = f'<img alt="{escape(alt)}" width="{width}" height="{height}" src="data:image/jpeg;base64,{source}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _map(answer: SlideAnswer) -> str:
    """Each patch in the colour of its contribution, on one scale for both signs."""
    score = answer.scores[CONTRIBUTION]
    most = max(float(np.abs(score).max()), 1e-6)
    bar = (
        f'<div class="bar" style="background:linear-gradient(90deg,{AGAINST},transparent,{FOR})"></div>'
        f'<div class="ends"><span>−{most:.2g} against</span><span>0</span><span>+{most:.2g} for tumour</span></div>'
    )
    about = (
        "What each patch adds to the slide's score, its logit: orange speaks for tumour, purple against it."
        " The colours reach as far as this slide needs; compare slides by the numbers."
    )
    alt = f"The slide with {len(score)} patches coloured by their contribution"
    picture = _picture(_coloured(answer, score / most), alt, about)
    return f'<h2>What spoke for and against tumour</h2>{ZOOM}<div class="map">{picture}</div>{bar}'


def _coloured(answer: SlideAnswer, part: np.ndarray) -> np.ndarray:
    """A thumbnail whose patches are orange or purple, the more so the nearer `part` (n,) is to 1 or -1."""
    image, size = read_thumbnail(answer.slide, MAP_PX)
    factor, side = np.array(image.shape[1::-1]) / size, answer.patches.geometry.patch_size_level0
    low = np.round(answer.patches.coords * factor).astype(int)
    high = np.round((answer.patches.coords + side) * factor).astype(int)
    for (x0, y0), (x1, y1), value in zip(low.tolist(), high.tolist(), part.tolist(), strict=True):
        weight, color = 0.75 * abs(value), np.array(to_rgb(FOR if value > 0 else AGAINST))
        square = image[y0:y1, x0:x1]
        square[...] = (1 - weight) * square + weight * color
    return image


def _deciding(answer: SlideAnswer) -> str:
    """The patches of highest and lowest contribution, as pictures."""
    score, share = answer.scores[CONTRIBUTION], answer.scores[SHARE]
    coords, side = answer.patches.coords, answer.patches.geometry.patch_size_level0
    order = np.argsort(-score, kind="stable")
    many = min(SHOWN, (len(order) + 1) // 2)
    groups = {"most for tumour": order[:many], "most against it, or least for it": order[many:][::-1][:many]}
    parts = ["<h2>The patches that decided</h2>"]
    with open_slide(answer.slide) as slide:
        for name, chosen in groups.items():
            if not len(chosen):
                continue
            fetch_patches(slide, coords[chosen], side, PATCH_PX)
            shown = []
            for i in chosen.tolist():
                x, y = coords[i].tolist()
                told = f"<b>{score[i]:+.3f}</b><br>attention × {share[i]:.1f}<br>x {x}, y {y}"
                rgb = read_patch(slide, x, y, side, PATCH_PX)
                shown.append(_picture(rgb, f"patch {i}, contribution {score[i]:+.3f}", told))
            parts.append(f'<p>The {len(chosen)} that spoke {name}:</p><div class="patches">{"".join(shown)}</div>')
    parts.append("<small>Attention × 1 is a fair share: what each patch would get if all counted the same.</small>")
    return "".join(parts)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that becomes a list on a phone; cells are HTML."""
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in header)
    lines = (
        "".join(f'<td data-head="{escape(h)}">{cell}</td>' for h, cell in zip(header, row, strict=True)) for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{x}</tr>' for x in lines)}</tbody></table>"


def _comparison(answer: SlideAnswer) -> str:
    if not answer.comparisons:
        return ""
    rows = [
        (escape(c.what), escape(c.here), escape(c.training), f'<span class="tag {c.verdict}">{c.verdict}</span>')
        for c in answer.comparisons
    ]
    n = min(m.known.n for m in answer.models if m.known is not None)
    about = (
        f"<p>The same was measured on each of the {n} training slides, for the look without that slide itself."
        " <b>Unlike</b>: at most 1 of 100 slides that come from where the training slides come from would be so"
        " extreme, or as few as so many slides can show. <b>Unusual</b>: at most 5 of 100. So false alarms happen:"
        f" look and size together call at most {100 * false_alarms(n):.1f} of 100 such slides unlike. <b>Like</b> is no"
        " proof: a slide can differ in what is not measured here.</p>"
    )
    return f"<h2>Is this slide like the training slides?</h2>{about}" + _table(
        ("what", "this slide", "training slides", "verdict"), rows
    )


def _models(answer: SlideAnswer) -> str:
    """What each checkpoint was trained on, and what it must not be used for."""
    rows, never = [], []
    for said, model in zip(answer.answers, answer.models, strict=True):
        known = model.known
        about = "not known: an earlier version wrote this checkpoint"
        how = f"{said.threshold:.3f}, chosen on validation slides"
        if known is not None:
            (n, tumour), (m, sick) = known.training, known.validation
            kind = "synthetic slides, drawn by a program" if known.synthetic else "slides"
            about = (
                f"{n} {kind}, {tumour} of them with tumour; validated on {m}, {sick} with tumour (names {known.digest})"
            )
            how = f"{said.threshold:.3f}: the best balanced accuracy on the {m} validation slides"
            mag, side = known.patches.get("mag", 20), known.patches.get("patch_size", "?")
            about += f"; {model.encoder} features of patches of {side} px at {mag:g}x"
        cells = (Path(said.checkpoint).name, f"{said.probability:.4f}", how, about)
        rows.append([escape(cell) for cell in cells])
    if any(m.known is not None and m.known.synthetic for m in answer.models):
        never.append(
            "for real slides: its training slides were drawn by a program, and no number from them speaks of patients"
        )
    never += [
        "for a diagnosis, or any decision about a patient: it is no medical device, and no pathologist has checked it",
        "for slides that are unlike its training slides, as told above: other organs, stains, scanners, magnifications",
        "to show that a slide has no tumour: small metastases may be missed",
    ]
    told = "".join(f"<li>{escape(n)}</li>" for n in never)
    table = _table(("checkpoint", "probability", "threshold", "trained on"), rows)
    return f"<h2>The model</h2>{table}<p><b>It must not be used</b></p><ul>{told}</ul>"
