"""Slides of notebook 2: bags and batches. Training slides only."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import torch

from deck import course
from deck.exercises import roadmap
from deck.look import INK, SOFT, VIOLET, Slide, claim, panels, picture, vote
from mil_tutorial import build_adjacency, open_slide, read_patch
from mil_tutorial.style import NORMAL, TUMOR

SIZES = np.random.default_rng(0).integers(2000, 10_001, 400)  # made up: as many bags as CAMELYON16 has, of real size
PATCH_GIGABYTES = 768 * 4 / 1e9


def two_bags() -> Slide:
    """A normal and a tumour bag of real patches."""
    figure, _ = panels(1)
    figure.clf()
    parts = figure.subfigures(1, 2, wspace=0.04)
    names = ["normal_002", next(n for n in course.of_size("micro") if (course.truth_of(n) == 1).sum() == 1)]
    for part, name, word in zip(parts, names, ["“no metastasis”: 0", "“metastasis”: 1"], strict=True):
        coords, truth, side = course.patches_of(name).coords, course.truth_of(name), course.side_of(name)
        inner = np.flatnonzero(truth != 1)[10:21]
        chosen = [*inner[:7], *([int(truth.argmax())] if truth.max() == 1 else [inner[-1]]), *inner[7:10], inner[10]][
            :12
        ]
        with open_slide(course.data().slide_path(name)) as slide:
            for axis, i in zip(part.subplots(3, 4).flat, chosen, strict=True):
                picture(axis, read_patch(slide, *coords[i].tolist(), side, px=160))
                axis.spines[:].set(
                    visible=True, color=TUMOR if truth[i] == 1 else SOFT, linewidth=7 if truth[i] == 1 else 2
                )
        part.suptitle(f"label of the bag: {word}", weight="bold", fontsize=20)
    return Slide(
        "One tumour patch makes the whole bag positive",
        "The model is told the line above each bag. It is never told about the orange frame.",
        figure,
        (
            "Everyday picture: a bunch of keys opens the door or not. You are not told which key.",
            "Ask: what is the label of a bag with one positive patch among 10 000? (Positive.)",
        ),
        alt="Twelve patches of a normal and of a tumour slide; one of the latter has an orange frame.",
    )


def three_tables() -> Slide:
    """Features, places and hidden labels of one slide."""
    name = course.of_size("macro")[0]
    i = course.bags("train").get_bag_names().index(name)
    X, truth, coords = course.bags("train")[i]["X"].numpy(), course.truth_of(name), course.patches_of(name).coords
    figure, axes = panels(3, [6, 2, 1])
    axes[0].imshow(X[:, :120], aspect="auto", cmap="Purples", vmax=float(np.quantile(X, 0.99)))
    axes[0].set(title=f"X: {X.shape[0]} patches x {X.shape[1]} features", ylabel="patch", xticks=[])
    places = (coords - coords.min(0)) / course.side_of(name)
    axes[1].imshow(places, aspect="auto", cmap="Greys")
    axes[1].set(title="coords", xticks=[0, 1], xticklabels=["column", "row"], yticks=[])
    axes[2].imshow((truth == 1)[:, None], aspect="auto", cmap=plt.matplotlib.colors.ListedColormap([NORMAL, TUMOR]))
    axes[2].set(title="y_inst", xticks=[], yticks=[])
    return Slide(
        "A bag is three tables with the same rows",
        "Row 17 must be the same patch in all three. Nothing complains when it is not, so our reader compares.",
        figure,
        (
            "y_inst, the patch labels, is hidden while we train. It is there to see afterwards where the model looked.",
            "Common mistake: features and coordinates of different runs.",
        ),
        alt="A matrix of features, beside it columns of coordinates and of patch labels in blue and orange.",
    )


def who_touches() -> Slide:
    """Patches as a graph and as a matrix."""
    name = course.of_size("macro")[0]
    coords, truth, side = course.patches_of(name).coords, course.truth_of(name), course.side_of(name)
    places = (coords - coords.min(0)) / side
    adjacency = build_adjacency(torch.from_numpy(places)).to_dense().numpy()
    figure, axes = panels(2, [1.5, 1])
    for i, j in np.argwhere(adjacency > 0):
        axes[0].plot(places[[i, j], 0], places[[i, j], 1], color=SOFT, lw=2, zorder=0)
    axes[0].scatter(places[:, 0], places[:, 1], s=330, c=np.where(truth == 1, TUMOR, NORMAL))
    axes[0].invert_yaxis()
    axes[0].set(aspect="equal", xticks=[], yticks=[], title="who touches whom")
    axes[0].spines[:].set_visible(False)
    axes[1].imshow(adjacency > 0, cmap="Purples")
    axes[1].set(title="the same as a matrix", xlabel="patch", ylabel="patch")
    filled = (adjacency > 0).mean()
    return Slide(
        claim(filled < 0.2, f"Only {filled:.0%} of “who touches whom” is not zero"),
        "Some models look at neighbours. With 10 000 patches the full matrix has 100 million numbers; we store"
        " the few.",
        figure,
        ("ABMIL does not need it. Graph models do. It is built only when asked for.",),
        alt="Left: patches as dots with lines between neighbours. Right: a matrix that is almost empty.",
    )


def the_split() -> Slide:
    """Slides against patches."""
    figure, axes = panels(2)
    rng = np.random.default_rng(2)
    for axis, title, leak in zip(axes, ["split slides", "split patches: a leak"], [False, True], strict=True):
        for row in range(5):
            val = row == 3
            for column in range(11):
                here = rng.random() < 0.25 if leak else val
                axis.add_patch(plt.Rectangle((column, row), 0.86, 0.8, color=TUMOR if here else NORMAL))
        axis.set(xlim=(-0.1, 11), ylim=(5, -0.2), xticks=[], yticks=np.arange(5) + 0.4, title=title)
        axis.set_yticklabels([f"slide {i + 1}" for i in range(5)])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    figure.legend(
        [plt.Rectangle((0, 0), 1, 1, color=c) for c in (NORMAL, TUMOR)],
        ["training", "validation"],
        loc="outside lower center",
        ncols=2,
    )
    return Slide(
        "Split slides, never patches",
        "Two patches of one slide share stain, scanner and patient. A model can know the slide, and need not"
        " know tumour.",
        figure,
        (
            "Ask for other leaks: same patient, same hospital, same day of staining.",
            "Notebook 5 measures this leak with labels that mean nothing.",
        ),
        alt="Two grids. Left: one row of patches is validation. Right: validation patches are spread over all rows.",
    )


def padded(axis, sizes: np.ndarray) -> None:
    """Bars of bags, and the padding that fills them up."""
    axis.bar(range(len(sizes)), sizes, color=NORMAL, width=0.9)
    axis.bar(range(len(sizes)), sizes.max() - sizes, bottom=sizes, color="#D9D4E2", width=0.9)
    axis.set(xlabel=f"{len(sizes)} bags", ylabel="patches", xticks=[], yticks=[0, 5000, 10_000])


def guess_padding() -> Slide:
    """The vote."""
    return vote(
        "how much of a batch of 32 is padding?",
        "Bags of 2 000 to 10 000 patches. In a padded batch all are filled up to the largest.",
        ("about 10 %", "about 25 %", "about 40 %"),
        "Hands up. Most say too little.",
    )


def the_padding() -> Slide:
    """The answer."""
    figure, axes = panels(2, [1.4, 1])
    rng = np.random.default_rng(0)
    counts = [1, 2, 4, 8, 16, 32]
    drawn = [rng.choice(SIZES, (200, k)) for k in counts]
    full = np.array([np.mean(d.max(1) * d.shape[1]) for d in drawn]) * PATCH_GIGABYTES
    real = np.array([np.mean(d.sum(1)) for d in drawn]) * PATCH_GIGABYTES
    padded(axes[0], drawn[-1][0])
    axes[1].plot(counts, full, "o-", color=VIOLET)
    axes[1].plot(counts, real, "o-", color=NORMAL)
    axes[1].annotate("padded", (counts[-2], full[-2]), (-14, 8), textcoords="offset points", ha="right", color=VIOLET)
    axes[1].annotate("packed", (counts[-2], real[-2]), (14, -26), textcoords="offset points", color=NORMAL)
    axes[1].set(xlabel="bags in a batch", ylabel="GB", xticks=[1, 8, 16, 32])
    waste = 1 - real[-1] / full[-1]
    return Slide(
        claim(0.3 < waste < 0.5, f"{waste:.0%} of a padded batch of 32 is padding"),
        "Grey is memory and time for nothing. The larger the batch, the larger its largest bag.",
        figure,
        (
            "Answer to the notebook's question: padding wastes memory, packing wastes none.",
            "The sizes are made up, in the range of real slides. Ours are small, so less is wasted.",
        ),
        alt="Left: 32 bars filled up with grey. Right: memory of padded and packed batches against batch size.",
    )


def the_packing() -> Slide:
    """Offsets."""
    sizes = np.array([len(course.bags("train")[i]["X"]) for i in (0, 30, 60, 87)])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    figure, (axis,) = panels(1)
    colors = [NORMAL, VIOLET, "#009E73", TUMOR]
    for i, size in enumerate(sizes):
        axis.barh(0, size - 0.6, left=offsets[i], color=colors[i], height=0.8)
        axis.text(
            offsets[i] + size / 2,
            0,
            f"bag {i}\n{size} patches",
            ha="center",
            va="center",
            color="white",
            weight="bold",
            fontsize=20,
        )
    for offset in offsets:
        axis.annotate(f"{offset}", (offset - 0.3, -0.42), (0, -52), ha="center", fontsize=24,
                      textcoords="offset points", arrowprops={"arrowstyle": "->", "lw": 3, "color": INK})  # fmt: skip
    axis.text(offsets[-1] / 2, -1.15, "offsets", ha="center", va="center", fontsize=22, style="italic")
    axis.set(ylim=(-1.35, 0.6), xlim=(-4, offsets[-1] + 4), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    return Slide(
        "Packing wastes nothing, and needs offsets",
        f"{len(sizes)} bags, one behind the other, and one number for each border.",
        figure,
        ("One offset more than bags. Exercise 2 goes the way back: from X and offsets to a list of bags.",),
        alt="Four bars in a row; arrows below mark where each bag begins, and the end.",
    )


def slides() -> Iterator[Slide]:
    """The slides of the chapter."""
    yield roadmap(
        2, "2 · Bags and batches", "A slide becomes a bag of patches with one label. Bags have different sizes.",
        "Two sentences on notebook 1, then on.",
    )  # fmt: skip
    yield two_bags()
    yield three_tables()
    yield who_touches()
    yield the_split()
    yield guess_padding()
    yield the_padding()
    yield the_packing()
