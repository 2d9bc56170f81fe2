"""One restrained look for every figure of the course."""

from __future__ import annotations

FOR, AGAINST = "#E66101", "#5E3C99"  # a patch that speaks for tumour, or against it: the ends of ColorBrewer's PuOr

# Okabe and Ito's colours, told apart by colour-blind readers.
TUMOR, NORMAL, ACCENT, GREY = "#D55E00", "#0072B2", "#009E73", "#777777"


def use_style() -> None:
    """Set matplotlib's defaults for the notebooks."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "figure.dpi": 80,
            "savefig.dpi": 150,
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "axes.prop_cycle": plt.cycler(color=[NORMAL, TUMOR, ACCENT, "#CC79A7", "#E69F00", GREY]),
            "image.interpolation": "nearest",
            "legend.frameon": False,
        }
    )
