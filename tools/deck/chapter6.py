"""Slides of notebook 6: where is the tumour, and does the map tell the truth?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import matplotlib.pyplot as plt
import numpy as np

from deck import course
from deck.chapter1 import on_overview
from deck.exercises import roadmap
from deck.look import FIGURE, Slide, claim, crop, panels, picture, vote
from mil_tutorial import (
    deletion_insertion,
    froc,
    lesions_from_mask,
    localize_slide,
    patch_metrics,
    patch_scores,
    scale_min_max,
)
from mil_tutorial.style import GREY, NORMAL, TUMOR

TESTED = {"attention x n": "attention", "logit contribution": "contribution", "gradient x input": "gradient × input"}


@cache
def scores(name: str) -> dict[str, np.ndarray]:
    """All scores of a test slide's patches."""
    bags = course.bags("test")
    return patch_scores(course.train(0).model, bags[bags.get_bag_names().index(name)]["X"])


@cache
def probability() -> dict[str, float]:
    """Of each test slide."""
    test = course.test_answers()
    return dict(zip(test.names, map(float, test.prob), strict=True))


def tumour_slides() -> list[str]:
    """Test slides with tumour."""
    test = course.test_answers()
    return [n for n, y in zip(test.names, test.Y, strict=True) if y == 1]


def innocent() -> str:
    """The normal test slide that the model is surest of."""
    test = course.test_answers()
    return min((p, n) for n, p, y in zip(test.names, test.prob, test.Y, strict=True) if y == 0)[1]


def paint(axis, name: str, values: np.ndarray, shape: float, *, cmap, low: float = 0, high: float = 1) -> None:
    """A slide with a colour on each patch."""
    image = course.overview_of(name)
    picture(axis, image)
    colors = plt.get_cmap(cmap)((values - low) / (high - low))
    for (x, y), color in zip(course.patches_of(name).coords.tolist(), colors, strict=True):
        x, y, side = on_overview(name, x, y)
        axis.add_patch(plt.Rectangle((x, y), side, side, fc=(*color[:3], 0.6), ec="none"))
    crop(axis, image, shape)


PAIR = FIGURE[0] / FIGURE[1] / 2 * 1.18  # two pictures side by side, each below a line of title


def the_place() -> Slide:
    """Truth and attention."""
    name = course.data().example
    figure, axes = panels(2)
    paint(axes[0], name, (course.truth_of(name) == 1).astype(float), PAIR, cmap="coolwarm")
    axes[0].set_title("red: tumour, in the mask")
    paint(axes[1], name, scale_min_max(scores(name)["raw attention"]), PAIR, cmap="coolwarm")
    axes[1].set_title("red: much attention")
    auc = np.nanmean([patch_metrics(course.truth_of(n), scores(n)["raw attention"])["auc"] for n in tumour_slides()])
    return Slide(
        claim(auc > 0.8, "One label per slide, and the model finds the place"),
        f"Nobody marked a patch. Over all tumour slides of the test set the patch AUC of attention is {auc:.2f}.",
        figure,
        ("Let them praise the picture. The next slide takes it apart.",),
        alt="The same slide twice: tumour patches in red, and attention in red at about the same place.",
    )


def guess_healthy() -> Slide:
    """The vote."""
    return vote(
        "what will a healthy slide look like?",
        "Same colours, scaled from smallest to largest attention. Its tumour probability is"
        f" {probability()[innocent()]:.2f}.",
        ("all blue", "some red", "all red"),
        "Hands up, and one reason for each.",
    )


def looks_guilty() -> Slide:
    """A healthy slide in min-max scaling."""
    name = innocent()
    figure, (axis,) = panels(1)
    paint(axis, name, scale_min_max(scores(name)["raw attention"]), FIGURE[0] / FIGURE[1], cmap="coolwarm")
    return Slide(
        "A healthy slide looks guilty, too",
        "Scaled from smallest to largest, some patch of every slide is red. The model itself says “no tumour”.",
        figure,
        (
            "Answer to the notebook's Predict: some patches are red, on every slide whatsoever.",
            "Put it on the wall and ask: where is the tumour? There is none.",
        ),
        alt="A normal slide with red patches.",
    )


def one_scale() -> Slide:
    """Contribution, both slides on one scale."""
    names = [course.data().example, innocent()]
    values = [scores(n)["logit contribution"] for n in names]
    limit = max(np.abs(v).max() for v in values)
    figure, axes = panels(2)
    for axis, name, value, word in zip(axes, names, values, ("tumour", "normal"), strict=True):
        paint(axis, name, value, PAIR, cmap="PuOr_r", low=-limit, high=limit)
        axis.set_title(f"{word}: probability {probability()[name]:.2f}")
    bar = figure.colorbar(
        plt.cm.ScalarMappable(plt.Normalize(-limit, limit), "PuOr_r"),
        ax=axes,
        orientation="horizontal",
        aspect=50,
        shrink=0.8,
    )
    bar.set_label("what the patch adds to the logit")
    return Slide(
        claim(values[0].max() > 2 * values[1].max(), "A score with a meaning tells them apart"),
        "Orange speaks for tumour, purple against it. Both slides share one scale.",
        figure,
        (
            "Attention says where the model looked. The contribution adds for which answer. The parts sum to the"
            " logit, less the bias.",
        ),
        minutes=3,
        alt="Left: some strong orange patches. Right: a pale slide with purple. One colour bar for both.",
    )


def guess_deletion() -> Slide:
    """The vote."""
    return vote(
        "delete what gets most attention",
        "Patch by patch. Against a random order, how fast does the tumour probability fall?",
        ("much\nfaster", "about as\nfast", "slower"),
        "Attention is what everybody draws. Does it show what the model uses?",
    )


def deletion() -> Slide:
    """Area under the deletion curve."""
    bags, model = course.bags("test"), course.train(0).model
    sure = [n for n in tumour_slides() if probability()[n] >= 0.8]
    areas: dict[str, list[float]] = {word: [] for word in [*TESTED.values(), "random order"]}
    for name in sure:
        X = bags[bags.get_bag_names().index(name)]["X"]
        for k, (key, word) in enumerate(TESTED.items()):
            found = deletion_insertion(model, X, scores(name)[key], steps=15, n_random=5 if k == 0 else 1)
            areas[word].append(found["deletion"].area)
            if k == 0:
                areas["random order"].append(found["random deletion"].area)
    means = {word: float(np.mean(a)) for word, a in areas.items()}
    figure, (axis,) = panels(1)
    colors = [TUMOR if w == "attention" else GREY if w == "random order" else NORMAL for w in means]
    axis.barh(list(means), list(means.values()), color=colors)
    for i, value in enumerate(means.values()):
        axis.text(value + 0.01, i, f"{value:.2f}", va="center")
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="area under the deletion curve: small is good")
    return Slide(
        claim(
            means["attention"] > 0.8 * means["random order"] > means["contribution"],
            "Attention is hardly better than a random order",
        ),
        f"Over {len(sure)} tumour slides that the model is sure of. Scores that know the classifier's opinion are"
        " far better.",
        figure,
        (
            "Answer to the notebook's Predict: the contribution falls faster, and stays low.",
            "The best finding of the course: a convincing map need not show what is used.",
            "One model, synthetic slides. Test your own.",
        ),
        minutes=3,
        alt="Four bars: attention is nearly as long as random order; contribution and gradient times input are short.",
    )


def the_froc() -> Slide:
    """Lesions found against false alarms."""
    bags, model, test = course.bags("test"), course.train(0).model, course.test_answers()
    detections = {
        n: localize_slide(model, bags[i]["X"], bags.read_patches(n)).detections for i, n in enumerate(test.names)
    }
    lesions = {n: lesions_from_mask(course.data().mask_path(n)) if n in tumour_slides() else None for n in test.names}
    result = froc(detections, lesions, n_bootstrap=200)
    figure, (axis,) = panels(1)
    axis.step(result.fp_per_slide, result.sensitivity, where="post", color=NORMAL)
    at_one = float(result.sensitivity[result.fp_per_slide <= 1].max())
    axis.plot([1], [at_one], "o", ms=20, color=TUMOR)
    axis.annotate(
        f"{at_one:.0%} at one false alarm a slide",
        (1, at_one),
        (20, -60),
        textcoords="offset points",
        color=TUMOR,
        weight="bold",
    )
    axis.set(
        xscale="symlog",
        xlim=(0, 9),
        ylim=(0, 1.05),
        xticks=[0, 0.5, 1, 2, 4, 8],
        xlabel="false alarms per slide",
        ylabel="lesions found",
    )
    axis.set_xticklabels(["0", "½", "1", "2", "4", "8"])
    axis.minorticks_off()
    return Slide(
        f"{at_one:.0%} of the lesions, at one false alarm per slide",
        f"FROC asks as a doctor does. Score {result.score:.2f}, 95 % interval {result.low:.2f} to"
        f" {result.high:.2f} over slides.",
        figure,
        (
            "Do a case of three slides on the board before the curve.",
            "A lesion hit three times counts once. Isolated cells count neither way.",
        ),
        minutes=4,
        alt="A step curve: share of lesions found against false alarms per slide, a dot at one.",
    )


def slides() -> Iterator[Slide]:
    """The slides of the chapter."""
    yield roadmap(
        6, "6 · Where is the tumour?", "A map of the slide, and how to find out whether it tells the truth.",
        "Open the viewer in a tab now: it comes at the end.",
    )  # fmt: skip
    yield the_place()
    yield guess_healthy()
    yield looks_guilty()
    yield one_scale()
    yield guess_deletion()
    yield deletion()
    yield the_froc()
