"""Checks of the exercises of notebook 4: training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mil_tutorial.bags.collate import collate_fn
from mil_tutorial.bags.lists import bags_from_arrays
from mil_tutorial.exercises.checks import exercise, expect, number, run, whole
from mil_tutorial.models import ABMIL


@exercise(takes=("my_settings", "train_on_few", "runs", "long"), writes=("my_settings",))
def my_settings(my_settings: Any, train_on_few: Any, runs: Mapping[str, Any], long: int) -> None:
    """Settings that reach a lower validation loss than the runs that are there.

    Args:
        my_settings: the learner's keyword arguments.
        train_on_few: the notebook's function that trains with them and gives the history.
        runs: histories of the runs to beat, by title.
        long: most epochs.
    """
    expect(my_settings is not None, "empty")
    expect(isinstance(my_settings, dict), "unlike", found=my_settings)
    expect(all(isinstance(name, str) for name in my_settings), "unlike", found=my_settings)
    expect("epochs" in my_settings, "no_epochs", found=my_settings)
    epochs = my_settings["epochs"]
    expect(isinstance(epochs, (int, np.integer)) and 1 <= epochs <= long, "epochs", found=repr(epochs), most=long)
    history = run(lambda: train_on_few(**my_settings))
    expect(np.isfinite(history.val_loss).all(), "went_wrong", found=history.val_loss[-1])
    reached, beaten = min(history.val_loss), min(min(h.val_loss) for h in runs.values())
    expect(reached < beaten, "differs", found=f"{reached:.3f}", beaten=f"{beaten:.3f}", epoch=history.best_epoch + 1)


def _early_stop(losses: Sequence[float], patience: int) -> int:
    """After how many epochs early stopping ends a run."""
    for done in range(1, len(losses) + 1):
        best = losses.index(min(losses[:done]))
        if done - 1 - best >= patience:
            return done
    return len(losses)


@exercise()
def stop_epoch(stop_epoch: Any) -> None:
    """After how many epochs early stopping ends a run."""
    for losses, patience in (
        ([4, 3, 2.2, 3, 2.5, 2.6, 2.7, 2.8], 3),  # the best loss is not the number of its epoch
        ([3, 2, 1, 2, 2, 2], 2),
        ([3, 2, 1], 2),
        ([1, 2, 2, 2], 1),
        ([3, 2, 2, 1, 2], 3),
        ([5, 4, 4.5, 3, 3.5, 3.2, 3.1, 3.05], 3),
        ([3, 2, 2.5, 2.6, 1], 2),
        ([3, 2, 2, 2, 2], 2),
    ):
        right = _early_stop(losses, patience)
        answer = run(stop_epoch, list(losses), patience)
        value = number(answer)
        given = {"losses": losses, "patience": patience, "found": answer, "right": right}
        best = list(losses).index(min(losses[:right]))
        rises = [i + 1 for i in range(1, len(losses)) if losses[i] > losses[i - 1]]
        for key, wrong in (
            ("from_zero", right - 1),
            ("the_best", best),
            ("previous", rises[0] if rises else right),
            ("never", len(losses)),
            ("one_more", right + 1),
        ):
            expect(value != wrong or wrong == right, key, **given)
        expect(value <= len(losses), "too_many", **given)
        expect(whole(answer) == right, "differs", **given)


def _gradients(model: nn.Module) -> torch.Tensor:
    """All gradients in a row."""
    found = [p.grad for p in model.parameters()]
    expect(all(g is not None for g in found), "no_gradient")
    return torch.cat([g.flatten() for g in found if g is not None])


def _backward(model: ABMIL, batches: Sequence[Any], weights: Sequence[float]) -> torch.Tensor:
    """Gradients of the weighted sum of the batches' losses, from zero."""
    model.zero_grad()
    for batch, weight in zip(batches, weights, strict=True):
        losses = model.compute_loss(batch["Y"], batch["X"], batch["mask"])[1]
        (torch.stack(list(losses.values())).sum() * weight).backward()
    return _gradients(model).clone()


@exercise()
def accumulated_gradient(accumulated_gradient: Any) -> None:
    """Gradients of the mean loss over all bags, from small batches of different sizes."""
    generator = torch.Generator().manual_seed(0)
    arrays = [torch.randn(n, 6, generator=generator).numpy() for n in (3, 5, 2, 4, 6)]
    bags = bags_from_arrays(arrays, [0, 1, 1, 0, 1])
    items = [bags[i] for i in range(len(bags))]
    batches = [collate_fn(items[:1]), collate_fn(items[1:])]
    with torch.random.fork_rng(devices=[]):  # the same model every time, and the learner's random numbers go on
        torch.manual_seed(0)
        model = ABMIL(6, att_dim=4)
    shares = [len(batch["Y"]) / len(items) for batch in batches]
    mistakes = {
        "batches_count_the_same": _backward(model, batches, [1 / len(batches)] * len(batches)),
        "summed": _backward(model, batches, [1.0] * len(batches)),
        "only_last": _backward(model, batches[-1:], shares[-1:]),
        "only_last_whole": _backward(model, batches[-1:], [1.0]),
        "sum_over_bags": _backward(model, batches, [len(batch["Y"]) for batch in batches]),
    }
    right, weights = _backward(model, batches, shares), [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)  # left over from an earlier step
    try:
        run(accumulated_gradient, model, batches)
    except Exception as error:
        if getattr(error, "key", "") != "nothing":  # it works on the model; it need not return anything
            raise
    expect(all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True)), "stepped")
    found = _gradients(model)
    expect(not torch.equal(found, torch.ones_like(found)), "untouched")
    expect(not torch.allclose(found, right + 1, atol=1e-5), "not_cleared")
    for key, wrong in mistakes.items():
        expect(not torch.allclose(found, wrong, atol=1e-6), key)
        expect(not torch.allclose(found, wrong + 1, atol=1e-5), "not_cleared")
    expect(torch.isfinite(found).all(), "not_finite", found=found)
    expect(torch.allclose(found, right, atol=1e-5), "differs", largest=float((found - right).abs().max()))
