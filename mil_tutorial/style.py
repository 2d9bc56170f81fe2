"""One restrained look for every figure of the course."""

from __future__ import annotations

# Okabe and Ito's colours, told apart by colour-blind readers.
TUMOR, NORMAL, ACCENT, GREY = "#D55E00", "#0072B2", "#009E73", "#777777"


def use_style() -> None:
    """Set matplotlib's defaults for the notebooks."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({
        "figure.dpi": 80, "savefig.dpi": 150, "figure.constrained_layout.use": True,
        "font.size": 11, "axes.titlesize": 12, "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False,
        "axes.prop_cycle": plt.cycler(color=[NORMAL, TUMOR, ACCENT, "#CC79A7", "#E69F00", GREY]),
        "image.interpolation": "nearest", "legend.frameon": False,
    })  # fmt: skip


def show_images(images, titles, width: float = 12.0, heights: float | None = None):
    """Pictures side by side without axes; returns the axes for more drawing.

    Args:
        images: list of (h, w, 3) or (h, w) arrays.
        titles: one for each.
        width: of the figure in inches; `heights` likewise, chosen from the pictures by default.
    """
    import matplotlib.pyplot as plt

    ratio = max(image.shape[0] / image.shape[1] for image in images)
    height = heights or width / len(images) * ratio + 0.4
    figure, axes = plt.subplots(1, len(images), figsize=(width, height), squeeze=False)
    for axis, image, title in zip(axes[0], images, titles, strict=True):
        axis.imshow(image, cmap="gray" if image.ndim == 2 else None)
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    return axes[0]
