"""How slides are prepared, and what preparing them has to tell."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from mil_tutorial.errors import require, require_integer, require_number
from mil_tutorial.geometry import is_objective_mpp


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How slides are prepared; names are TRIDENT's.

    Attributes:
        mag: magnification of the patches.
        patch_size: side of a patch in pixels at `mag`.
        overlap: pixels that neighbours share at `mag`.
        patch_encoder: see `encoders.load_encoder`.
        min_tissue_proportion: least fraction of tissue in a patch; 0 keeps every patch that touches tissue.
        remove_penmarks: green, blue, red and black pen is no tissue, see `slides.pen`; without any, nothing changes.
        show_tissue: also draw what was taken for tissue, pen and holes, into the folder `tissue`.
        mpp: µm per pixel at level 0, only for slides that do not say it.
        dtype: `float16` or `float32` features.

    >>> PrepareOptions(patch_size=256.5)
    Traceback (most recent call last):
    mil_tutorial.errors.ParameterError: patch_size: found 256.5, expected a whole number of at least 16 and ...
    """

    mag: float = 20
    patch_size: int = 512
    overlap: int = 0
    patch_encoder: str = "efficientnet_lite0"
    min_tissue_proportion: float = 0.0
    remove_penmarks: bool = True
    show_tissue: bool = False
    mpp: float | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        require_number("mag", self.mag, low=0.1, high=100)
        require_integer("patch_size", self.patch_size, low=16, high=16384)
        require_integer("overlap", self.overlap, low=0, high=int(self.patch_size) - 1)
        known = isinstance(self.patch_encoder, str) and self.patch_encoder.strip() != ""
        require(known, "patch_encoder", self.patch_encoder, "the name of an encoder, such as efficientnet_lite0")
        require_number("min_tissue_proportion", self.min_tissue_proportion, low=0, high=1)
        for name in ("remove_penmarks", "show_tissue"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "True or False")
        if self.mpp is not None:
            require_mpp(self.mpp)
        require(self.dtype in ("float16", "float32"), "dtype", self.dtype, "float16 or float32")


def require_mpp(mpp: object) -> None:
    """µm per pixel must be those of an objective: `ParameterError` if not."""
    require(is_objective_mpp(mpp), "mpp", mpp, "µm per pixel from 0.05 to below 2.4, such as 0.25")


@dataclass(frozen=True)
class Note:
    """Something that the user should know and that stops nothing.

    Attributes:
        text: a sentence that names the file.
        kind: ends "Slides that ..."; of many notes of one kind, one is told. Of those without a kind, each is told.
    """

    text: str
    kind: str = ""


def warn(note: Note) -> None:
    """Tell a note as a Python warning."""
    warnings.warn(note.text, stacklevel=3)
