"""Where patches lie: the one place that turns magnification, patch size and overlap into level-0 pixels.

Level 0 is the full resolution of a slide. `mpp` is µm per pixel there. A "20x patch of 512 px" is a square whose side
has `512 * level0_magnification / 20` level-0 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from mil_tutorial.errors import DataError, Found, ParameterError, require

# Upper bound of µm per pixel for each nominal magnification, as TRIDENT 0.3.0 snaps them (measured from its output).
_MAGNIFICATIONS = ((0.16, 80.0), (0.2, 60.0), (0.3, 40.0), (0.6, 20.0), (1.2, 10.0), (2.4, 5.0))


def is_objective_mpp(mpp: object) -> bool:
    """Whether an objective of a microscope has pixels of so many µm: a number from 0.05 to below 2.4.

    >>> is_objective_mpp(0.243), is_objective_mpp(29)
    (True, False)
    """
    return isinstance(mpp, Real) and not isinstance(mpp, bool) and 0.05 <= float(mpp) < _MAGNIFICATIONS[-1][0]


def nominal_magnification(mpp: float) -> float:
    """The objective that a pixel size stands for: 0.243 µm -> 40.

    Raises:
        ValueError: no common objective has such pixels.
    """
    for bound, magnification in _MAGNIFICATIONS:
        if 0 < mpp < bound:
            return magnification
    raise ValueError(f"{mpp} µm per pixel fits no magnification between 5x and 80x.")


@dataclass(frozen=True)
class Geometry:
    """The patch grid of one slide.

    Attributes:
        patch_size: side of a patch in pixels at the target magnification.
        overlap: pixels that neighbours share, at the target magnification.
        target_magnification, level0_magnification: nominal, such as 20 and 40.
        width, height: size of the slide in level-0 pixels.
        patch_size_level0: side of a patch in level-0 pixels.
    """

    patch_size: int
    overlap: int
    target_magnification: float
    level0_magnification: float
    width: int
    height: int
    patch_size_level0: int

    @classmethod
    def for_slide(
        cls, *, mpp: float, width: int, height: int, magnification: float, patch_size: int, overlap: int = 0
    ) -> Geometry:
        """The grid of a slide at a magnification.

        Raises:
            ValueError: the slide has less magnification than asked for, or the overlap is not smaller than the patch.
        """
        level0 = nominal_magnification(mpp)
        if magnification > level0:
            raise ValueError(
                f"the slide is {level0:g}x ({mpp} µm per pixel), patches at {magnification:g}x were asked for."
            )
        if not 0 <= overlap < patch_size:
            raise ValueError(
                f"the overlap of {overlap} px must be at least 0 and less than the patch size {patch_size} px."
            )
        side = int(patch_size * level0 / magnification)  # cut, not rounded, as TRIDENT writes it
        return cls(patch_size, overlap, float(magnification), level0, width, height, side)

    @classmethod
    def from_attributes(cls, attributes: Mapping, path: Path) -> Geometry:
        """The grid as the attributes of a TRIDENT `coords` dataset tell it; integers and floats are both fine.

        Raises:
            DataError: an attribute is missing.
        """
        names = (
            "patch_size",
            "overlap",
            "target_magnification",
            "level0_magnification",
            "level0_width",
            "level0_height",
            "patch_size_level0",
        )
        missing = [n for n in names if n not in attributes]
        if missing:
            raise DataError(
                f"{path}: dataset 'coords' lacks the attributes {', '.join(missing)}. Expected the patch geometry that"
                " TRIDENT writes. Make the coordinates again with TRIDENT >= 0.2 or `mil-tutorial prepare`."
            )
        try:
            v = {n: float(attributes[n]) for n in names}
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}: an attribute of 'coords' is not a number ({error}). Make the coordinates again."
            ) from error
        wrong = [n for n in names if not (v[n] > 0 or (n == "overlap" and v[n] == 0))]
        if wrong:
            raise DataError(f"{path}: attribute {wrong[0]} of 'coords' is {v[wrong[0]]:g}. Make the coordinates again.")
        return cls(
            patch_size=int(v["patch_size"]),
            overlap=int(v["overlap"]),
            target_magnification=v["target_magnification"],
            level0_magnification=v["level0_magnification"],
            width=int(v["level0_width"]),
            height=int(v["level0_height"]),
            patch_size_level0=int(v["patch_size_level0"]),
        )

    @property
    def step_level0(self) -> int:
        """Distance of neighbouring patches in level-0 pixels: patch and overlap each rounded, as TRIDENT does."""
        factor = self.level0_magnification / self.target_magnification
        return max(1, round(self.patch_size * factor) - round(self.overlap * factor))

    def grid(self) -> np.ndarray:
        """Top-left corners of all places of the grid, row by row: int64 (k, 2) x, y in level-0 pixels.

        The grid starts at (0, 0); patches at the right and lower border reach past the slide.
        """
        x = np.arange(0, self.width, self.step_level0, dtype=np.int64)
        y = np.arange(0, self.height, self.step_level0, dtype=np.int64)
        return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)

    def cells(self, coords: np.ndarray) -> np.ndarray:
        """Grid places of patches: int64 (n, 2) column, row, from the first occupied ones. See `grid_cells`."""
        return grid_cells(coords, self.step_level0)


def as_coords(coords: ArrayLike) -> np.ndarray:
    """Patch corners as int64 (n, 2); an empty array becomes (0, 2).

    Raises:
        ParameterError: another shape, no numbers, or NaN.
    """
    coords = np.asarray(coords)
    if coords.size == 0:
        return np.empty((0, 2), np.int64)
    expected = "numbers of shape (n, 2): x and y of each patch in level-0 pixels"
    numbers = coords.dtype.kind in "iuf"
    require(
        numbers and coords.ndim == 2 and coords.shape[1] == 2,
        "coords",
        Found(f"shape {coords.shape} of {coords.dtype}"),
        expected,
    )
    bad = int(np.count_nonzero(~np.isfinite(coords)))
    require(not bad, "coords", Found(f"{bad} values that are NaN or infinite"), expected)
    return coords.astype(np.int64)


def as_side(side: float, *, parameter: str = "patch_size_level0") -> int:
    """The side of a patch as a whole number of pixels; 1024.0 will do, as some files store it.

    >>> as_side(1024.0)
    1024

    Raises:
        ParameterError: no number, not whole, or below 1; it names `parameter`.
    """
    good = isinstance(side, Real) and not isinstance(side, bool) and side >= 1 and float(side).is_integer()
    require(good, parameter, side, "a whole number of at least 1")
    return int(side)


def as_numbers(values: ArrayLike, parameter: str, expected: str) -> np.ndarray:
    """Numbers as float64, in their shape; text is refused, also where it reads like numbers.

    Raises:
        ParameterError: `expected` is the end of its sentence.
    """
    try:
        array = np.asarray(values)
        good = array.dtype.kind in "biuf" or (
            array.dtype.kind == "O" and all(isinstance(v, (Real, np.bool_)) for v in array.ravel())
        )
    except (TypeError, ValueError, RuntimeError):  # rows of different lengths, a tensor with a gradient
        good = False
    require(good, parameter, values, expected)
    return array.astype(np.float64)


def as_scores(score: ArrayLike, n: int | None, *, parameter: str = "score") -> np.ndarray:
    """Patch scores as float64 (n,); an `n` of None takes as many as there are.

    >>> as_scores([1, 2], 2)
    array([1., 2.])

    Raises:
        ParameterError: not one finite number for each of the n patches; it names `parameter`.
    """
    each = "each patch" if n is None else f"each of {n} patches"
    values = as_numbers(score, parameter, f"one finite number for {each}").ravel()
    bad = int(np.count_nonzero(~np.isfinite(values)))
    found = Found(f"{len(values)} values" + (f", {bad} of them NaN or infinite" if bad else ""))
    require(n in (None, len(values)) and not bad, parameter, found, f"one finite number for {each}")
    return values


def as_named_scores(scores: Mapping[str, ArrayLike], n: int, *, parameter: str) -> dict[str, np.ndarray]:
    """Several scores of the same patches: name -> float64 (n,).

    Raises:
        ParameterError: no dictionary, or one of them as `as_scores` refuses it.
    """
    good = isinstance(scores, Mapping)
    require(good, parameter, Found(type(scores).__name__), "a dictionary by name, such as {'attention': values}")
    return {str(k): as_scores(v, n, parameter=f"{parameter}[{k!r}]") for k, v in scores.items()}


def as_labels(labels: ArrayLike, n: int | None, *, parameter: str = "labels") -> np.ndarray:
    """Patch labels as int64 (n,): 1 tumour, 0 normal, -1 unknown; an `n` of None takes as many as there are.

    Raises:
        ParameterError: not one of the three for each of the n patches; it names `parameter`.
    """
    expected = "1, 0 or -1 for " + ("each patch" if n is None else f"each of {n} patches")
    try:
        values = np.asarray(labels).ravel()
    except ValueError:  # rows of different lengths
        raise ParameterError(parameter, labels, expected) from None
    other = sorted(set(values.tolist()) - {-1, 0, 1}, key=str)
    found = Found(f"{len(values)} labels" + (f", among them {other[0]!r}" if other else ""))
    require(n in (None, len(values)) and not other, parameter, found, expected)
    return values.astype(np.int64)


def grid_step(coords: np.ndarray, side: int) -> int:
    """Distance of neighbours read off the coordinates: less than `side` where patches overlap, else `side`.

    The gaps inside rows and columns tell it by majority: pieces of tissue with own grids lie at any distance.
    """
    coords, most = as_coords(coords), side + 1
    # TRIDENT cuts the side but rounds the step, so that neighbours without overlap may lie one pixel further apart.
    gaps = np.concatenate([_gaps(coords), _gaps(coords[:, ::-1])])
    near, counts = np.unique(gaps[gaps <= most], return_counts=True)
    if len(near):
        return int(near[counts.argmax()])
    apart = np.concatenate([np.diff(np.unique(axis)) for axis in coords.T])  # no two side by side: a few of a grid
    nearest = int(apart.min(initial=most))
    on_grid = [step for step in (nearest, most) if side / 8 <= step and not ((coords - coords[:1]) % step).any()]
    return on_grid[0] if on_grid and len(apart) else side


def _gaps(coords: np.ndarray) -> np.ndarray:
    """Distances from each patch to the next one to the right in its row."""
    gap = np.diff(coords[np.lexsort(coords.T)], axis=0)
    return gap[(gap[:, 1] == 0) & (gap[:, 0] > 0), 0]


def grid_places(coords: np.ndarray, step_level0: int) -> np.ndarray:
    """Column and row of each patch, float64 (n, 2), from 0: whole numbers if all corners lie on one grid.

    Corners need not: CLAM gives each piece of tissue its own grid. Then these are the true places, in steps.
    """
    coords = as_coords(coords)
    return (coords - coords.min(0)) / step_level0 if len(coords) else coords.astype(np.float64)


def grid_cells(coords: np.ndarray, step_level0: int) -> np.ndarray:
    """Column and row of each patch, int64 (n, 2), from 0; `coords` (n, 2) are x, y in level-0 pixels.

    A corner off the grid gets the nearest cell. No two patches get one cell: where pieces of tissue with grids of their
    own overlap, patches are pushed along their row, or all along their column if that moves them less.

    >>> grid_cells(np.array([[0, 0], [512, 0], [700, 0]]), 512).tolist()
    [[0, 0], [1, 0], [2, 0]]
    """
    places = grid_places(coords, step_level0)
    cells = np.floor(places + 0.5).astype(np.int64)
    keys = cells[:, 1] * (cells[:, 0].max(initial=0) + 1) + cells[:, 0]
    if np.diff(np.sort(keys)).all():  # none twice
        return cells
    return min((_pushed(places, cells, axis) for axis in (0, 1)), key=lambda c: np.abs(c - places).max())


def _pushed(places: np.ndarray, cells: np.ndarray, axis: int) -> np.ndarray:
    """Cells of which none is taken twice: along `axis`, each is at least one further than the one before it."""
    order = np.lexsort((places[:, axis], cells[:, 1 - axis]))
    line, wanted, number = cells[order, 1 - axis], cells[order, axis], np.arange(len(order))
    start = line * (wanted.max() + len(order) + 1) - number  # lines far apart do not push each other
    pushed = cells.copy()
    pushed[order, axis] = np.maximum.accumulate(wanted + start) - start
    return pushed
