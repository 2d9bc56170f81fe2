"""Checks of the exercises of notebook 2: bags and collate."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch

from mil_tutorial.exercises.checks import array, exercise, expect, refuse, run

PATIENTS = ["ann", "ben", "ann", "cem", "dea", "ben", "eva", "ann"]
SEEDS = range(24)
BATCH, MOST_PADDING = 32, 0.05  # as the notebook asks


@exercise(takes=("my_order", "large"), writes=("my_order",))
def my_order(my_order: Any, large: np.ndarray) -> None:
    """An order of bags of which little is padding, when it is cut into batches.

    Args:
        my_order: the learner's order: numbers of bags.
        large: sizes of the bags.
    """
    expect(my_order is not None, "empty")
    order = array(my_order).ravel()
    expect(not np.array_equal(np.sort(order), np.sort(large)), "sizes")
    expect(len(order) == len(large), "how_many", found=len(order), right=len(large))
    expect(order.dtype.kind in "iu", "not_whole", found=order)
    missing = sorted(set(range(len(large))) - set(order.tolist()))
    expect(not missing, "once", i=missing[0] if missing else "", last=len(large) - 1)
    batches = [large[order[i : i + BATCH]] for i in range(0, len(order), BATCH)]
    padding = 1 - large.sum() / sum(b.max() * len(b) for b in batches)
    expect(padding < MOST_PADDING, "differs", found=f"{padding:.1%}", most=f"{MOST_PADDING:.0%}")


@exercise()
def unpack(unpack: Any) -> None:
    """From a packed batch back to a list of bags."""
    sizes = [3, 1, 4]
    X = torch.arange(sum(sizes) * 2, dtype=torch.float32).reshape(-1, 2)
    offsets = torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()])
    bags = run(unpack, X.clone(), offsets.clone())
    try:
        bags = list(bags)
    except TypeError:
        refuse("unlike", found=bags)
    expect(len(bags) == len(sizes), "how_many", found=len(bags), offsets=offsets, right=len(sizes))
    for i, bag in enumerate(bags):
        start, end = int(offsets[i]), int(offsets[i + 1])
        shape = tuple(getattr(bag, "shape", ()))
        expect(len(shape) == 2, "not_a_bag", i=i, found=bag)
        expect(shape == (end - start, 2), "shape", i=i, found=shape, right=(end - start, 2), offsets=offsets)
        expect(torch.equal(torch.as_tensor(bag), X[start:end]), "rows", i=i, start=start, end=end)


def _parts(answer: Any, slides: int) -> tuple[list[int], list[int]]:
    """Two lists of slide numbers."""
    try:
        train, val = ([operator.index(i) for i in part] for part in answer)
    except (TypeError, ValueError):
        refuse("two_lists", found=answer)
    named = train + val
    expect(all(0 <= i < slides for i in named), "no_such_slide", found=max(named, default=0), last=slides - 1)
    twice = [i for i in named if named.count(i) > 1]
    expect(not twice, "twice", i=twice[0] if twice else "")
    missing = sorted(set(range(slides)) - set(named))
    expect(not missing, "missing", i=missing[0] if missing else "")
    return train, val


@exercise()
def split_patients(split_patients: Any) -> None:
    """All slides of some patients, drawn at random, become the validation set."""
    drawn = set()
    for seed in SEEDS:
        train, val = _parts(run(split_patients, list(PATIENTS), 2, seed), len(PATIENTS))
        again = _parts(run(split_patients, list(PATIENTS), 2, seed), len(PATIENTS))
        expect((sorted(train), sorted(val)) == tuple(map(sorted, again)), "not_repeatable", seed=seed)
        names = {PATIENTS[i] for i in val}
        both = sorted(names & {PATIENTS[i] for i in train})
        expect(not both, "both_sides", name=both[0] if both else "", seed=seed)
        expect(len(names) == 2 or len({PATIENTS[i] for i in train}) != 2, "swapped")
        expect(len(names) == 2, "how_many", found=len(names), right=2, seed=seed)
        drawn.add(tuple(sorted(names)))
    expect(len(drawn) > 1, "seed_unused", seeds=len(SEEDS))
    never = sorted(set(PATIENTS) - {name for names in drawn for name in names})
    expect(not never, "never", name=never[0] if never else "", seeds=len(SEEDS))
