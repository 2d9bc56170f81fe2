"""Checks of the exercises of notebook 3: ABMIL from scratch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mil_tutorial.exercises.checks import array, exercise, expect, number, run
from mil_tutorial.models import ABMIL

LEAST_AUC = 0.85  # as the notebook asks


@exercise(takes=("my_knob", "lse", "make_scores", "auc"), writes=("my_knob",))
def my_knob(my_knob: Any, lse: Any, make_scores: Any, auc: Any) -> None:
    """A place of the knob between mean and maximum that is good for two diseases.

    Args:
        my_knob: the learner's number.
        lse: the notebook's log-sum-exp of scores and knob.
        make_scores: its made-up bags of a disease and a seed.
        auc: its AUC of labels and scores.
    """
    expect(my_knob is not None, "empty")
    value = number(my_knob)
    expect(value > 0, "not_above_0", found=value)
    for key, disease in (("too_low", "one patch stands out"), ("too_high", "all patches a little changed")):
        made = (make_scores(disease, seed) for seed in range(20))
        with np.errstate(over="ignore", invalid="ignore"):
            reached = float(np.mean([auc(y, run(lse, f, value)) for y, f in made]))
        expect(np.isfinite(reached), "overflow", found=value)
        expect(reached >= LEAST_AUC, key, found=value, reached=reached, least=LEAST_AUC)


@exercise()
def softmax(softmax: Any) -> None:
    """The softmax of one bag, without overflow."""
    for values in ([1.0, 2.0, 3.0], [100.0, 0.0], [-500.0, -501.0], [1000.0, 0.0, 0.0]):
        f = torch.tensor(values)
        right = torch.softmax(f, 0)
        answer = torch.as_tensor(array(run(softmax, f.clone()))).float()
        expect(answer.shape == right.shape, "shape", found=tuple(answer.shape), right=tuple(right.shape))
        given: dict[str, object] = {"f": values, "found": answer, "right": right}
        expect(torch.isfinite(answer).all(), "overflow", **given)
        expect(not torch.allclose(answer, torch.exp(f)), "no_sum", **given)
        for plain in (f, f - f.max()):
            # For large values it is right, too.
            expect(not torch.allclose(answer, plain / plain.sum()) or f.max() > 9, "no_exp", **given)
        expect(not torch.allclose(answer, torch.log_softmax(f, 0)), "log", **given)
        expect(not torch.allclose(answer, torch.softmax(-f, 0)), "sign", **given)
        good = abs(answer.sum() - 1) < 1e-4
        expect(good or f.abs().max() < 90, "overflow", **given)
        expect(good, "sum", total=answer.sum(), **given)
        expect(torch.allclose(answer, right, atol=1e-6), "differs", **given)


@exercise()
def mean_pool(mean_pool: Any) -> None:
    """The mean of the real patches of each bag of a padded batch."""
    generator = torch.Generator().manual_seed(0)
    sizes, n, d = (3, 5, 1), 5, 4
    X = torch.randn(len(sizes), n, d, generator=generator)
    mask = torch.arange(n) < torch.tensor(sizes)[:, None]
    X[~mask] = 7.0  # padding need not be 0
    right = torch.stack([X[i, mask[i]].mean(0) for i in range(len(sizes))])
    answer = torch.as_tensor(array(run(mean_pool, X.clone(), mask.clone()))).float()
    shape = {"found": tuple(answer.shape), "right": tuple(right.shape)}
    expect(answer.shape == right.shape, "shape", **shape)
    kept = X * mask[..., None]
    expect(not torch.allclose(answer, X.mean(1)), "padding_counts")
    expect(not torch.allclose(answer, kept.mean(1)), "divided_by_all", n=n)
    expect(not torch.allclose(answer, kept.sum(1)), "only_summed")
    expect(not torch.allclose(answer, kept.sum(1) / sum(sizes)), "divided_by_batch", total=sum(sizes))
    for i in range(len(sizes)):
        expect(torch.allclose(answer[i], right[i], atol=1e-5), "differs", i=i, found=answer[i], right=right[i])


@exercise()
def masked_softmax(masked_softmax: Any) -> None:
    """A softmax over the real patches of each bag; 0 at padding."""
    f = torch.tensor([[1.0, 2.0, 500.0], [400.0, 0.0, -400.0], [-300.0, -301.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, True, True], [True, True, False]])
    right = torch.softmax(f.masked_fill(~mask, -torch.inf), 1)
    answer = torch.as_tensor(array(run(masked_softmax, f.clone(), mask.clone()))).float()
    expect(answer.shape == f.shape, "shape", found=tuple(answer.shape), right=tuple(f.shape))
    expect(answer[0, 2] != 1 or torch.isfinite(answer[1]).any(), "upside_down")
    expect(not torch.isneginf(answer).any(), "no_exp", found=answer[0])
    expect(torch.isfinite(answer).all(), "overflow", found=answer[~torch.isfinite(answer).all(1)][:1])
    totals, over = answer.sum(1), answer.sum(0)
    expect(torch.allclose(totals, torch.ones(3)) or not torch.allclose(over, torch.ones(3)), "dimension", found=totals)
    for i in range(len(f)):
        padding = answer[i][~mask[i]]
        expect(not padding.any(), "padding", i=i, found=padding)
        expect(abs(totals[i] - 1) < 1e-4, "sum", i=i, found=totals[i])
        expect(torch.allclose(answer[i], right[i], atol=1e-6), "differs", i=i, found=answer[i], right=right[i])


@exercise(takes=("weight_factor", "logit_change"))
def copies(weight_factor: Any, logit_change: Any) -> None:
    """What two copies of every patch change: the factor of a weight, and the change of the logit."""
    expect(weight_factor is not None and logit_change is not None, "empty")
    factor, change = number(weight_factor), number(logit_change)
    generator = torch.Generator().manual_seed(0)
    model, X = ABMIL(6, att_dim=4), torch.randn(5, 6, generator=generator)
    with torch.inference_mode():
        (one, f), (two, g) = (model(x[None], return_att=True) for x in (X, torch.cat([X, X])))
    right = (torch.softmax(g[0], 0)[: len(X)] / torch.softmax(f[0], 0)).mean().item()
    expect(abs(factor - 1 / right) > 1e-3, "upside_down", found=factor)
    expect(abs(factor - 1) > 1e-3, "unchanged")
    expect(abs(factor - right) < 1e-3, "factor", found=factor)
    expect(abs(change - (two - one).item()) < 1e-4, "logit", found=change)
