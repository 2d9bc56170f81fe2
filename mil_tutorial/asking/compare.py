"""Is a slide like the training slides? Each line compares one thing that was measured on both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mil_tutorial.asking.known import KnownSlides, distance, rarity, verdict
from mil_tutorial.asking.source import SlideFeatures
from mil_tutorial.asking.trained import TrainedModel
from mil_tutorial.slides.coordinates import SAME_MPP
from mil_tutorial.slides.encoders import weights_digest

ORDER = ("unlike", "unusual", "unknown", "like")  # the most alarming first


@dataclass(frozen=True)
class Comparison:
    """One thing that was compared.

    Attributes:
        what: the thing.
        here: its value on this slide, in words.
        training: its values on the training slides.
        verdict: `like`, `unusual`, `unlike`, or `unknown` where one side does not say it.
        says: a sentence for a reader.
    """

    what: str
    here: str
    training: str
    verdict: str
    says: str

    @property
    def warns(self) -> bool:
        """Whether it is a reason to doubt the answer."""
        return self.verdict in ("unlike", "unusual")


def compare_slide(slide: SlideFeatures, model: TrainedModel) -> list[Comparison]:
    """All comparisons of a slide with the slides of one checkpoint; none if it does not know them."""
    known = model.known
    if known is None:
        return []
    return [
        _compare_look(slide, known),
        _compare_magnification(slide, known),
        _compare_pixels(slide, known),
        _compare_patches(slide, known),
        _compare_size(slide, known),
        _compare_encoder(slide, known),
    ]


def worst(lists: list[list[Comparison]]) -> list[Comparison]:
    """Of several checkpoints' comparisons of the same things, for each thing the most alarming one."""
    by_thing: dict[str, list[Comparison]] = {}
    for comparison in (c for comparisons in lists for c in comparisons):
        by_thing.setdefault(comparison.what, []).append(comparison)
    return [min(same, key=lambda c: ORDER.index(c.verdict)) for same in by_thing.values()]


def _of_all(part: float) -> str:
    return f"{part:.1%}".replace(".0%", "%").replace("%", " %")


def _compare_look(slide: SlideFeatures, known: KnownSlides) -> Comparison:
    """Stain, focus, magnification, tissue and scanner, all as the encoder sees them."""
    usual = float(np.median(known.distances)) or 1.0
    value = distance(slide.X, known.center, known.axes)
    part = rarity(value, known.distances)
    word, nearer = verdict(part, known.n), int((known.distances < value).sum())
    rate = f"Of slides like them, at most {_of_all(part)} lie so far away."
    says = {
        "like": f"Its patches look like those of the training slides: {known.n - nearer} of {known.n} lie as far away.",
        "unusual": f"Its patches look unusual: farther away than {nearer} of {known.n} training slides. {rate}",
        "unlike": f"Its patches look like nothing in training: farther away than {nearer} of {known.n} slides. {rate}",
    }[word]
    nearest, farthest = known.distances[[0, -1]] / usual
    training = f"{nearest:.1f} to {farthest:.1f} times, measured without each slide itself"
    here = f"{value / usual:.1f} times the usual distance"
    return Comparison("look (stain, focus, tissue, scanner)", here, training, word, says)


def _compare_magnification(slide: SlideFeatures, known: KnownSlides) -> Comparison:
    here, there = slide.patches.geometry.level0_magnification, known.magnifications
    training = ", ".join(f"{m:g}x" for m in there) or "not said"
    word = "unknown" if not there else "like" if here in there else "unlike"
    says = {
        "like": "It was scanned at the magnification of the training slides.",
        "unlike": f"It was scanned at {here:g}x, the training slides at {training}.",
        "unknown": "The files of the training slides do not say how they were scanned.",
    }[word]
    return Comparison("magnification of the scan", f"{here:g}x", training, word, says)


def _compare_pixels(slide: SlideFeatures, known: KnownSlides) -> Comparison:
    what, here = "µm per pixel", "not said" if slide.mpp is None else f"{slide.mpp:.4g}"
    if not known.mpp or slide.mpp is None:
        training = f"{known.mpp[0]:.4g} to {known.mpp[1]:.4g}" if known.mpp else "not said"
        return Comparison(what, here, training, "unknown", "One side does not say how large its pixels are.")
    low, high = known.mpp
    inside = low * (1 - SAME_MPP) <= slide.mpp <= high * (1 + SAME_MPP)
    says = "Its pixels are as large as those of the training slides."
    if not inside:
        says = f"Its pixels are {slide.mpp:.4g} µm wide, those of the training slides {low:.4g} to {high:.4g} µm."
    return Comparison(what, here, f"{low:.4g} to {high:.4g}", "like" if inside else "unlike", says)


def _compare_patches(slide: SlideFeatures, known: KnownSlides) -> Comparison:
    """How the patches were cut: always alike unless the features come from a folder."""
    grid = slide.patches.geometry
    here = {"mag": grid.target_magnification, "patch_size": grid.patch_size, "overlap": grid.overlap}
    there = {key: known.patches.get(key) for key in here}
    words = [f"{h['patch_size']} px at {h['mag']:g}x, overlap {h['overlap']} px" for h in (here,)]
    if None in there.values():
        return Comparison("patches", words[0], "not said", "unknown", "The training slides' files do not say it.")
    training = f"{there['patch_size']} px at {there['mag']:g}x, overlap {there['overlap']} px"
    same = here == there
    says = "Its patches were cut as in training." if same else f"Its patches are {words[0]}; in training {training}."
    return Comparison("patches", words[0], training, "like" if same else "unlike", says)


def _compare_size(slide: SlideFeatures, known: KnownSlides) -> Comparison:
    n, low, high = len(slide.X), int(known.counts[0]), int(known.counts[-1])
    part = rarity(n, known.counts, both_sides=True)
    word = verdict(part, known.n, both_sides=True)
    less = "less" if n < float(np.median(known.counts)) else "more"
    says = {
        "like": "It has as much tissue as the training slides.",
        "unusual": f"It has {less} tissue than nearly all training slides.",
        "unlike": f"It has {less} tissue than any training slide.",
    }[word]
    rate = "" if word == "like" else f" Of slides like them, at most {_of_all(part)} are so extreme."
    return Comparison("size (patches with tissue)", f"{n}", f"{low} to {high}", word, says + rate)


def _compare_encoder(slide: SlideFeatures, known: KnownSlides) -> Comparison:
    """The name always agrees; the weights behind it are compared where they are a file that can be found."""
    here, there = weights_digest(slide.encoder), known.weights
    word = "unknown" if not (here and there) else "like" if here == there else "unlike"
    says = {
        "like": "Its features come from the same encoder with the same weights.",
        "unlike": f"The weights of {slide.encoder} have changed since training (digest {there}, now {here}).",
        "unknown": f"Its features come from {slide.encoder}; whether with the same weights, no file says.",
    }[word]
    name = slide.encoder
    return Comparison("encoder", f"{name} {here}".strip(), f"{name} {there}".strip(), word, says)
