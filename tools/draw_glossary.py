"""Draw the pictures of the glossary into site/_static/glossary/. `make site` calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm

from mil_tutorial import open_data, open_slide, read_overview, read_patch, use_style
from mil_tutorial.style import GREY, NORMAL, TUMOR

TARGET = Path(__file__).resolve().parent.parent / "site" / "_static" / "glossary"
SLIDE = "tumor_001"
SOFT = "#d9d9d9"


def plain(count: int, width: float, height: float) -> list[plt.Axes]:
    """Axes side by side, without ticks."""
    _, axes = plt.subplots(1, count, figsize=(width, height), squeeze=False)
    for ax in axes[0]:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    return list(axes[0])


def stained() -> None:
    """Nuclei and what is between them, from a drawn slide."""
    ax = plain(1, 3.6, 2.7)[0]
    data = open_data()
    bag = data.bags("train", keys=["X", "y_inst"])
    name = bag.get_bag_names()[int(np.argmax(bag.get_bag_labels()))]
    patches = bag.read_patches(name)
    tumor = np.flatnonzero(bag[int(np.argmax(bag.get_bag_labels()))]["y_inst"].numpy() == 1)
    x, y = patches.coords[tumor[len(tumor) // 2]]
    with open_slide(data.slide_path(name)) as slide:
        ax.imshow(read_patch(slide, int(x), int(y), 400, 400)[60:360])
    ax.set_title("nuclei blue, the rest pink (synthetic)", fontsize=11)


def pyramid() -> None:
    """The same picture three times, each half as wide."""
    with open_slide(open_data().slide_path(SLIDE)) as slide:
        small = read_overview(slide, 48)
    height, width = small.shape[:2]
    ax = plain(1, 5.2, 1.9)[0]
    left = 0.0
    for level in range(3):
        share = 0.5**level
        ax.imshow(small, extent=(left, left + width * share, 0, height * share))
        ax.text(left, height * share + height * 0.03, f"level {level}", fontsize=11)
        left += width * share + width * 0.08
    ax.set_xlim(0, left)
    ax.set_ylim(0, height * 1.12)
    ax.axis("off")


def patch_grid() -> None:
    """A slide cut into patches, one of them large."""
    data = open_data()
    bags = data.bags("train", keys=["X"])
    patches = bags.read_patches(SLIDE)
    side = patches.geometry.patch_size_level0
    one = patches.coords[len(patches.coords) // 2]
    whole, close = plain(2, 5.2, 2.5)
    with open_slide(data.slide_path(SLIDE)) as slide:
        whole.imshow(read_overview(slide, 24))
        close.imshow(read_patch(slide, int(one[0]), int(one[1]), side, 512))
    for x, y in patches.coords / 24:
        chosen = bool(np.allclose((x, y), one / 24))
        color, line = (TUMOR, 2.5) if chosen else ("#333333", 0.6)
        whole.add_patch(plt.Rectangle((x, y), side / 24, side / 24, fill=False, ec=color, lw=line, zorder=2 + chosen))
    whole.set_title("a slide in patches (synthetic)", fontsize=11)
    close.set_title("one patch", fontsize=11, color=TUMOR)


def squares(ax: plt.Axes, left: float, low: float, colors: list[str]) -> None:
    """A row of squares."""
    for k, color in enumerate(colors):
        ax.add_patch(plt.Rectangle((left + k, low), 0.86, 0.86, fc=color, ec="#333333", lw=0.8))


def bag() -> None:
    """Two bags of patches with one label each."""
    ax = plain(1, 5.2, 1.7)[0]
    for row, (colors, label) in enumerate(
        [([SOFT] * 5, "normal, Y = 0"), ([SOFT, SOFT, TUMOR, SOFT], "tumour, Y = 1")]
    ):
        low = 1.35 * (1 - row)
        ax.add_patch(plt.Rectangle((-0.2, low - 0.17), len(colors) + 0.25, 1.2, fill=False, ec=GREY, lw=1.5))
        squares(ax, 0, low, colors)
        ax.text(5.5, low + 0.43, label, va="center", fontsize=12)
    ax.text(2.43, 0.43, "?", ha="center", va="center", color="white", fontsize=13, weight="bold")
    ax.set_xlim(-0.4, 9)
    ax.set_ylim(-0.4, 2.6)
    ax.set_aspect("equal")
    ax.axis("off")


def batch() -> None:
    """Bags of 3, 5 and 2 patches, padded and packed."""
    padded, packed = plain(2, 6.8, 1.9)
    sizes, colors = (3, 5, 2), (NORMAL, "#56B4E9", "#E69F00")
    start = 0
    for row, (size, color) in enumerate(zip(sizes, colors, strict=True)):
        squares(padded, 0, 2 - row, [color] * size + ["white"] * (5 - size))
        squares(packed, start, 1, [color] * size)
        packed.text(start, 0.75, f"{start}", va="top", fontsize=11)
        start += size
    packed.text(start, 0.75, f"{start}", va="top", fontsize=11)
    padded.set_title("padding: white rows are no patches", fontsize=11)
    packed.set_title("packing: offsets say where a bag begins", fontsize=11)
    for ax, right in ((padded, 5), (packed, start + 0.6)):
        ax.set_xlim(-0.2, right)
        ax.set_ylim(-0.2, 3.1)
        ax.set_aspect("equal")
        ax.axis("off")


def softmax() -> None:
    """Raw scores of five patches, and their weights."""
    raw = np.array([0.3, -0.8, 2.1, 0.9, -0.2])
    weights = np.exp(raw) / np.exp(raw).sum()
    for ax, values, title in zip(
        plain(2, 5.2, 2.0), (raw, weights), ("raw attention", "after the softmax: sum 1"), strict=True
    ):
        ax.bar(range(5), values, color=NORMAL)
        ax.axhline(0, color="black", lw=0.8)
        ax.set_title(title, fontsize=11)
        for k, value in enumerate(values):
            ax.text(k, max(value, 0), f"{value:.2f}", ha="center", va="bottom", fontsize=9)
        ax.margins(y=0.2)


def logit() -> None:
    """The sigmoid: from a logit to a probability."""
    x = np.linspace(-6, 6, 200)
    _, ax = plt.subplots(figsize=(3.8, 2.1))
    ax.plot(x, 1 / (1 + np.exp(-x)))
    ax.plot([0], [0.5], "o", color=TUMOR)
    ax.set_xlabel("logit")
    ax.set_ylabel("probability")


def auc() -> None:
    """A ROC curve of two overlapping groups with the area below it."""
    cut = np.linspace(-5, 6, 300)
    false, true = norm.sf(cut), norm.sf(cut, loc=1.6)
    _, ax = plt.subplots(figsize=(3.0, 2.5))
    ax.fill_between(false, true, color="#cfe3f5")
    ax.plot(false, true)
    ax.plot([0, 1], [0, 1], "--", color=GREY, lw=1)
    ax.text(0.55, 0.3, "AUC", fontsize=13)
    ax.set_xlabel("1 − specificity")
    ax.set_ylabel("sensitivity")


PICTURES: dict[str, Callable[[], None]] = {
    f.__name__: f for f in (stained, pyramid, patch_grid, bag, batch, softmax, logit, auc)
}


def main() -> None:
    """Draw all of them."""
    use_style()
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        draw()
        plt.savefig(TARGET / f"{name}.png", dpi=110)
        plt.close()


if __name__ == "__main__":
    main()
