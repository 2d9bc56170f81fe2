"""Slides of notebook 1: from a slide to patches and their labels. Training slides only."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import matplotlib.pyplot as plt
import numpy as np

from deck import course
from deck.exercises import roadmap
from deck.look import FIGURE, INK, Slide, claim, crop, panels, picture, row_of_pictures
from mil_tutorial import load_encoder, open_slide, read_patch, segment_tissue
from mil_tutorial.style import NORMAL, TUMOR

WIDE = FIGURE[0] / FIGURE[1]


def hunted() -> str:
    """A training slide whose one metastasis is small but can be seen: the micro-metastasis with the fullest patch."""
    return max(course.of_size("micro")[:12], key=lambda name: course.shares_of(name).max())


def normal_in(name: str) -> int:
    """The patch without tumour that is nearest to the middle of the tissue."""
    shares, coords = course.shares_of(name), course.patches_of(name).coords
    far = np.abs(coords - np.median(coords, axis=0)).sum(1)
    return int(np.where(shares == 0, far, np.inf).argmin())


def on_overview(name: str, x: float, y: float) -> tuple[float, float, float]:
    """Corner and side of a patch in pixels of the overview."""
    (width, _), _ = course.facts_of(name)
    factor = course.overview_of(name).shape[1] / width
    return x * factor, y * factor, course.side_of(name) * factor


def square(axis, x: float, y: float, side: float, color: str = INK, width: float = 4, **more) -> None:
    """A frame."""
    axis.add_patch(plt.Rectangle((x, y), side, side, fill=False, ec=color, lw=width, **more))


def outline(axis, mask: np.ndarray, shown: int, color: str = TUMOR) -> None:
    """The border of the tumour, on a picture `shown` pixels wide."""
    large = cv2.resize(mask.astype(np.uint8), (shown, shown), interpolation=cv2.INTER_NEAREST)
    axis.contour(large, levels=[0.5], colors=color, linewidths=4)


def bar(axis, mpp: float, factor: float, micrometres: int) -> None:
    """A scale bar with its length, at the lower left."""
    length = micrometres / mpp * factor
    x, y = axis.get_xlim()[0] + 30, axis.get_ylim()[0] - 30
    axis.plot([x, x + length], [y, y], color=INK, lw=6, solid_capstyle="butt", scalex=False, scaley=False)
    word = f"{micrometres / 1000:g} mm" if micrometres >= 100 else f"{micrometres} µm"
    axis.text(x, y - 15, word, va="bottom", weight="bold")


def the_question(name: str) -> Slide:
    """A slide, no mark on it."""
    image, ((width, height), mpp) = course.overview_of(name), course.facts_of(name)
    figure, (axis,) = panels(1)
    picture(axis, image)
    crop(axis, image, WIDE)
    bar(axis, mpp, image.shape[1] / width, 500)
    return Slide(
        "Somewhere in here there is cancer",
        f"One metastasis, as large as {max(1, round(course.shares_of(name).sum()))} of the squares of a"
        f" {round(width / course.side_of(name))} by {round(height / course.side_of(name))} grid. Where would you look?",
        figure,
        (
            "Say nothing for ten seconds. Let two people point.",
            "A pathologist looks at hundreds of such slides. A missed focus changes the therapy.",
            "The picture is synthetic: a program drew it. Real nodes are ten times as wide and have no frame.",
        ),
        kind="predict",
        alt="A lymph node at low magnification, with one small metastasis that nothing marks.",
    )


def the_answer(name: str) -> Slide:
    """The same slide with the place, and the patch."""
    shares, coords = course.shares_of(name), course.patches_of(name).coords
    x, y = coords[shares.argmax()].tolist()
    image, side = course.overview_of(name), course.side_of(name)
    with open_slide(course.data().slide_path(name)) as slide:
        patch = read_patch(slide, x, y, side, 700)
    figure, axes = panels(2, [1.7, 1])
    picture(axes[0], image)
    crop(axes[0], image, 1.7)
    picture(axes[1], patch, f"this patch: {shares.max():.0%} of it is tumour")
    square(axes[0], *on_overview(name, x, y), color=TUMOR, width=5)
    outline(axes[1], course.mask_of(name, x, y, side), 700)
    n = int((shares > 0.5).sum())
    return Slide(
        claim(n < len(shares) / 8, f"Here it is: {n} of {len(shares)} patches"),
        "One label for the whole slide says “tumour”. Nobody tells the model where.",
        figure,
        (
            "Orange is the pathologist's border. Inside it nuclei are larger and paler than the lymphocytes around.",
            "This is the whole problem of the course: one word for a billion pixels.",
        ),
        alt="Left: the slide with a small orange square. Right: that square enlarged, with the tumour's border.",
    )


def the_pyramid(name: str) -> Slide:
    """One place at four levels."""
    coords, side = course.patches_of(name).coords, course.side_of(name)
    x, y = coords[course.shares_of(name).argmax()].tolist()
    images, titles = [], []
    with open_slide(course.data().slide_path(name)) as slide:
        mpp = float(slide.properties["openslide.mpp-x"])
        for level in range(4):
            factor = slide.level_downsamples[level]
            corner = (int(x + side / 2 - 150 * factor), int(y + side / 2 - 150 * factor))
            images.append(np.array(slide.read_region(corner, level, (300, 300)))[:, :, :3])
            titles.append(f"level {level}: {300 * factor * mpp / 1000:.2f} mm wide")
        sizes = len(slide.level_dimensions)
    figure, _ = row_of_pictures(images, titles)
    return Slide(
        f"One file holds the picture {sizes} times",
        "Each level is half as large as the one before. Corners are always in level-0 pixels.",
        figure,
        (
            "Same middle, same number of pixels, four distances from the microscope.",
            "Common mistake: a corner in pixels of level 3. Ask what one would see. (Another place of the slide.)",
        ),
        alt="Four views of one place, from single nuclei on the left to the tissue's pattern on the right.",
    )


def the_pixel() -> Slide:
    """The same number of pixels on two scanners."""
    reference = course.data().reference
    train = [n for n in course.data().split("train")["wsi_name"] if n.startswith("normal")]
    scanner = reference.set_index("wsi_name")["scanner"]
    names = [next(n for n in train if scanner[n] == s) for s in ("A", "B")]
    figure, axes = panels(2)
    widths = []
    for axis, name in zip(axes, names, strict=True):
        coords, mpp = course.patches_of(name).coords, course.facts_of(name)[1]
        x, y = coords[len(coords) // 2].tolist()
        with open_slide(course.data().slide_path(name)) as slide:
            patch = read_patch(slide, x, y, 1024, 700)
        widths.append(1024 * mpp)
        axis.imshow(patch, extent=(0, widths[-1], widths[-1], 0))
        axis.set(
            xlim=(0, 255), ylim=(255, 0), xticks=[], yticks=[], title=f"{mpp:.3f} µm a pixel: {widths[-1]:.0f} µm wide"
        )
        axis.spines[:].set_visible(False)
    less = 1 - (min(widths) / max(widths)) ** 2
    return Slide(
        "“40x” is a word, µm per pixel is a number",
        f"Both patches have 1024 x 1024 pixels “at 40x”. One shows {less:.0%} less tissue. Ask the file.",
        figure,
        (
            "Ask: how many pixels is a lymphocyte of 7 µm wide? About 29 and 31.",
            "All later geometry, heatmaps too, hangs on this number.",
        ),
        alt="Two patches with the same number of pixels; the right one covers less tissue and is drawn smaller.",
    )


def the_tissue(name: str) -> Slide:
    """Saturation finds tissue."""
    image = course.overview_of(name)
    saturation = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[:, :, 1]
    tissue = segment_tissue(image, remove_penmarks=False)
    figure, axes = panels(3, [1, 1, 1])
    for axis, shown, title in zip(
        axes, [image, saturation, tissue], ["slide", "how much colour", "tissue"], strict=True
    ):
        picture(axis, shown, title, cmap="gray")
        crop(axis, image, WIDE)
        left, right = axis.get_xlim()
        axis.set_xlim(left, left + (right - left) * 0.38)  # the left end of the node, large
    return Slide(
        "Tissue has colour, glass has none",
        f"Otsu's threshold on saturation keeps {(tissue > 0).mean():.0%} of this slide, and fills its holes.",
        figure,
        ("Ask what it misses (pale fat) and what it finds though it is none (pen).",),
        alt="Three pictures: the slide, its saturation in grey, and the tissue in white.",
    )


def the_grid(name: str) -> Slide:
    """The patches, with their labels."""
    image, coords, truth = course.overview_of(name), course.patches_of(name).coords, course.truth_of(name)
    figure, (axis,) = panels(1)
    picture(axis, image)
    for (x, y), label in sorted(zip(coords.tolist(), truth, strict=True), key=lambda pair: pair[1]):
        square(axis, *on_overview(name, x, y), color=TUMOR if label == 1 else NORMAL, width=5 if label == 1 else 2)
    crop(axis, image, WIDE)
    micrometres = course.side_of(name) * course.facts_of(name)[1]
    return Slide(
        f"A grid cuts the slide into {len(coords)} patches",
        f"A square of {micrometres:.0f} µm is kept if it touches tissue. Orange: more than half of it is tumour.",
        figure,
        (
            "No cleverness here: a grid from the slide's corner, and the tissue decides.",
            "Common mistake: 512 pixels at 20x are 1024 pixels of level 0 on a 40x slide.",
            "Squares at the edge are nearly all glass. `--min_tissue_proportion` drops them.",
        ),
        alt="The slide with a grid of blue squares on tissue; a few are orange.",
    )


def the_border(name: str) -> Slide:
    """A patch that is half tumour."""
    shares, coords, side = course.shares_of(name), course.patches_of(name).coords, course.side_of(name)
    half = int(np.abs(shares - 0.5).argmin())
    chosen = [normal_in(name), half, int(shares.argmax())]
    figure, axes = panels(4, [1, 1, 1, 1.25])
    with open_slide(course.data().slide_path(name)) as slide:
        for axis, i in zip(axes, chosen, strict=False):
            x, y = coords[i].tolist()
            picture(axis, read_patch(slide, x, y, side, 500), f"share {shares[i]:.2f}")
            if 0 < shares[i] < 1:
                outline(axis, course.mask_of(name, x, y, side), 500)
    order = np.sort(shares)
    axes[3].bar(range(len(order)), order, width=1, color=[TUMOR if s > 0.5 else NORMAL for s in order])
    axes[3].axhline(0.5, color=INK, lw=3, ls="--")
    axes[3].set(title="all patches, sorted", yticks=[0, 0.5, 1], xticks=[])
    between = int(((shares > 0.05) & (shares < 0.95)).sum())
    return Slide(
        "A patch label is a decision that somebody wrote down",
        f"Label 1: more than half tumour. On this slide {between} of {len(shares)} patches lie in between.",
        figure,
        (
            "Ask before you show it: what should a patch be called that is 30 % tumour?",
            "Answer to the notebook's Predict: by our rule the label changes at one half. A model sees both"
            " tissues in it,"
            " and either answer is partly wrong. There is no right rule, only one that is written down.",
        ),
        kind="figure",
        minutes=3,
        alt="Three patches: without tumour, half, full; and the sorted tumour shares of all patches with a threshold.",
    )


def the_vector(name: str) -> Slide:
    """Pixels become numbers."""
    shares, coords, side = course.shares_of(name), course.patches_of(name).coords, course.side_of(name)
    chosen, encoder = [int(shares.argmax()), normal_in(name)], load_encoder()
    figure, axes = panels(2, [1, 3.4])
    figure.clf()
    grid = figure.subplots(2, 2, width_ratios=[1, 4.6])
    with open_slide(course.data().slide_path(name)) as slide:
        pictures = np.stack([read_patch(slide, *coords[i].tolist(), side, px=encoder.px) for i in chosen])
    features = encoder.encode(pictures)
    for (left, right), shown, vector, color in zip(grid, pictures, features, (TUMOR, NORMAL), strict=True):
        picture(left, shown)
        right.bar(range(200), vector[:200], width=1, color=color)
        right.set(xticks=[], yticks=[], ylim=(0, float(features[:, :200].max())))
    return Slide(
        f"An encoder turns a patch into {features.shape[1]} numbers",
        "This one learnt from photographs of cats and cars. Here are 200 of its numbers for two patches.",
        figure,
        (
            "The model of notebook 3 never sees a pixel, only these numbers.",
            "Ask: can a network that never saw tissue help? Notebook 5 answers. Foundation models do better on"
            " real slides.",
        ),
        alt="Two patches, each with a bar chart of its features; the patterns differ.",
    )


def slides() -> Iterator[Slide]:
    """The slides of the chapter."""
    name, large = hunted(), course.of_size("macro")[0]
    yield roadmap(
        1, "1 · Data and patch labels", "From a file of a billion pixels to small squares that a model can read.",
        "Welcome. Everyone runs the first cell now, while you speak.",
    )  # fmt: skip
    yield the_question(name)
    yield the_answer(name)
    yield the_pyramid(name)
    yield the_pixel()
    yield the_tissue(name)
    yield the_grid(large)
    yield the_border(large)
    yield the_vector(large)
