"""Slides as one HTML file: a double click opens it, nothing is asked from a network."""

from __future__ import annotations

import base64
import html
from pathlib import Path

import matplotlib.pyplot as plt

from deck.look import INK, MARK, PAGE, PAPER, VIOLET, Slide, as_webp, smallest_letters
from mil_tutorial.style import TUMOR

SHORT = 300  # letters of a text that may be larger
HERE = Path(__file__).parent
KINDS = {"predict": "Predict first", "exercise": "Your turn", "home": "Take home"}
KEYS = "Keys: arrows · S speaker's window · N notes here · T timer · O overview · B black · F full screen."


def section(slide: Slide, n: int, total: int) -> str:
    """One slide as HTML."""
    word = f'<span class="word">{KINDS[slide.kind]}:</span> ' if slide.kind in KINDS else ""
    body = ""
    if slide.figure is not None:
        data, width = base64.b64encode(as_webp(slide.figure)).decode(), slide.figure.canvas.get_width_height()[0]
        body = (
            f'<div class="room"><img width="{width}" data-letters="{smallest_letters(slide.figure):.1f}"'
            f' alt="{html.escape(slide.alt or slide.sentence, quote=True)}" src="data:image/webp;base64,{data}"></div>'
        )
        plt.close(slide.figure)
    elif slide.lines or slide.code:
        code = f"<pre>{html.escape(slide.code)}</pre>" if slide.code else ""
        short = " short" if sum(map(len, slide.lines)) < SHORT else ""
        body = f'<div class="lines{short}">{"".join(f"<p>{line}</p>" for line in slide.lines)}{code}</div>'
    sentence = f'<p class="sentence">{html.escape(slide.sentence)}</p>' if slide.sentence else ""
    spoken = [f"<b>{slide.minutes} min.</b>", *map(html.escape, slide.notes), *([KEYS] if n == 1 else [])]
    notes = "".join(f"<p>{text}</p>" for text in spoken)
    return (
        f'<section class="{slide.kind}" data-minutes="{slide.minutes}"><h1>{word}{html.escape(slide.title)}</h1>'
        f"{sentence}{body}<footer>{MARK}<span>MIL for whole-slide images · synthetic slides</span>"
        f'<span class="n">{n} / {total}</span></footer><aside>{notes}</aside></section>'
    )


def deck(slides: list[Slide], title: str) -> str:
    """The whole file."""
    body = "\n".join(section(slide, i, len(slides)) for i, slide in enumerate(slides, 1))
    icon = base64.b64encode(MARK.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"').encode()).decode()
    style, script = ((HERE / f"slides.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    colors = f":root {{ --ink: {INK}; --paper: {PAPER}; --violet: {VIOLET}; --tumour: {TUMOR}; }}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<link rel="icon" href="data:image/svg+xml;base64,{icon}"><meta name="viewport" content="width={PAGE[0]}">'
        f'<style>{colors}\n{style}</style></head><body><main id="stage">{body}</main><div id="clock"></div>'
        f'<div id="talk"></div><script>{script}</script></body></html>\n'
    )
