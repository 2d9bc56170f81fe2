"""Choose some slides of CAMELYON16 so that they are like all of them: over split, label, lesion size and centre."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from mil_tutorial.errors import Found, require, require_integer
from mil_tutorial.sources.sets import feature_set

STRATA = ["split", "wsi_label", "lesion_size", "center"]

CELLS = 8  # the first so many slides are two of each split and label

FIRST = frozenset({"tumor_091"})  # the smallest tumour slide: cheap to look at

LAST = frozenset({"test_019", "test_034"})  # a remote reader is known to garble them, nobody knows why

LABELS_FROM = ("masks", "annotations")


@dataclass(frozen=True)
class Wanted:
    """What to fetch of CAMELYON16. By default 60 slides, with features of a small encoder for pathology.

    Attributes:
        features: name of a set, see `sets.SETS`.
        slides: a choice of so many slides, spread over split, label, lesion size and centre.
        names: these slides.
        everything: all slides.
        labels_from: what patch labels are made from, `masks` or `annotations`.

    Raises:
        ParameterError: no such set, or labels from something else.
    """

    features: str = "vits"
    slides: int | None = None
    names: Sequence[str] | None = None
    everything: bool = False
    labels_from: str = "masks"

    def __post_init__(self) -> None:
        feature_set(self.features)
        require(self.labels_from in LABELS_FROM, "labels_from", self.labels_from, f"one of {', '.join(LABELS_FROM)}")


def choose_slides(table: pd.DataFrame, n: int, *, without: Collection[str] = ()) -> list[str]:
    """Choose `n` slides; the same table gives the same ones, and a smaller `n` gives some of them.

    The first eight are two of each split and label. Each further one comes from the group of split, label, lesion size
    and centre that is furthest behind its part of the whole.

    Args:
        table: columns wsi_name, split, wsi_label, lesion_size, center.
        n: how many; at most as many as there are.
        without: names that are not taken.

    Returns:
        Names in the table's order.

    Raises:
        ParameterError: `n` is not a whole number of at least 1, or there are not so many slides.
    """
    require_integer("slides", n, low=1)
    free = table[~table["wsi_name"].isin(list(without))]
    require(n <= len(free), "slides", n, f"at most {len(free)}: so many slides there are")
    groups = {key: sorted(names, key=_rank) for key, names in free.groupby(STRATA)["wsi_name"]}
    part = {key: len(names) / len(free) for key, names in groups.items()}
    taken: dict[str, tuple] = {}
    cells = sorted({key[:2] for key in groups}, key=lambda cell: (cell[0] != "train", cell[1] != 1))
    while len(taken) < n:
        k = len(taken)
        cell = cells[k % len(cells)] if k < CELLS else None
        open_ = [key for key in groups if groups[key] and cell in (None, key[:2])] or [g for g in groups if groups[g]]
        used = Counter(taken.values())
        key = max(open_, key=lambda g: (k + 1) * part[g] - used[g])
        taken[groups[key].pop(0)] = key
    return [name for name in free["wsi_name"] if name in taken]


def check_names(table: pd.DataFrame, names: Collection[str], removed: dict[str, str]) -> list[str]:
    """The named slides in the table's order.

    Raises:
        ParameterError: there is no such slide.
    """
    known = table["wsi_name"].tolist()
    for name in names:
        why = f"; it {removed[name]}" if name in removed else ""
        require(
            name in known,
            "names",
            Found(f"{name!r}{why}"),
            f"names of slides of CAMELYON16, such as {known[0]!r} or {known[-1]!r}",
        )
    return [name for name in known if name in set(names)]


def describe_choice(table: pd.DataFrame, names: Collection[str]) -> str:
    """A table of how many slides were chosen, of how many, in plain text."""
    chosen = table[table["wsi_name"].isin(list(names))]
    size, centre = pd.CategoricalDtype(["none", "micro", "macro", "unknown"]), ["split", "lesion_size"]
    counts = []
    for part in (chosen, table):
        part = part.assign(lesion_size=part["lesion_size"].astype(size))
        counts.append(part.groupby([*centre, "center"], observed=True).size())
    lines = [f"{'split':<7}{'lesions':<9}{'centre':<9}{'slides':>12}"]
    for split, lesion, place, total in counts[1].reset_index(name="total").itertuples(index=False):
        some = f"{counts[0].get((split, lesion, place), 0)} of {total}"
        lines.append(f"{split:<7}{lesion:<9}{place:<9}{some:>12}")
    lines.append(f"{'all':<25}{f'{len(chosen)} of {len(table)}':>12}")
    return "\n".join(lines)


def _rank(name: str) -> tuple[bool, bool, str]:
    """No order that a scanner or a day of work could have left in the names."""
    return name not in FIRST, name in LAST, hashlib.sha256(name.encode()).hexdigest()
