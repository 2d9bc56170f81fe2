"""What each patch does to the answer: ask the model about it alone, without it, and along the way from an empty bag."""

from __future__ import annotations

import numpy as np
import torch

from mil_tutorial.errors import Found, require, require_integer
from mil_tutorial.localization.scores import as_bag


def perturbation_scores(model: torch.nn.Module, X: torch.Tensor, *, steps: int = 20) -> dict[str, np.ndarray]:
    """Scores of one bag's patches that need no attention: the model is only asked, so it may be any.

    They take many forward passes, n for `leave one out`: use them on chosen slides.

    Args:
        model: takes (B, N, D) and gives logits (B,).
        X: (n, D) features.
        steps: points of the integral of `integrated gradients`.

    Returns:
        name -> (n,) float64:
        single patch: the logit of the bag that holds this patch alone;
        leave one out: the bag's logit less its logit without this patch;
        integrated gradients: gradient x input, averaged on the line from an all-zero bag to this one; their sum is the
        bag's logit less that of the all-zero bag, up to the error of the integral.

    Raises:
        ParameterError: X is not a finite tensor (n, D) of at least two patches, or `steps` is below 1.

    Source: Jamshidi Idaji et al. 2026 (arXiv:2603.08328) for single patches; Sundararajan, Taly, Yan, "Axiomatic
    Attribution for Deep Networks", ICML 2017 (arXiv:1703.01365) for integrated gradients.

    >>> from mil_tutorial import MeanPool
    >>> sorted(perturbation_scores(MeanPool(4), torch.ones(3, 4)))
    ['integrated gradients', 'leave one out', 'single patch']
    """
    require_integer("steps", steps, low=1)
    bag = as_bag(model, X).float()
    n = len(bag)
    require(n > 1, "X", Found("one patch"), "at least two: without it the bag would be empty")
    model.eval()
    with torch.inference_mode():
        whole = model(bag[None])[0]
        single = torch.cat([model(patch[None, None]) for patch in bag])
        without = torch.cat([model(torch.cat([bag[:i], bag[i + 1 :]])[None]) for i in range(n)])
    found = {
        "single patch": single,
        "leave one out": whole - without,
        "integrated gradients": _integral(model, bag, steps),
    }
    return {name: value.double().cpu().numpy() for name, value in found.items()}


def _integral(model: torch.nn.Module, bag: torch.Tensor, steps: int) -> torch.Tensor:
    """Gradient times input, averaged over the middles of `steps` equal parts of the way from zero to the bag: (n,)."""
    with torch.inference_mode(False), torch.enable_grad():  # also where the caller has switched gradients off
        bag = bag.clone()
        total = torch.zeros_like(bag)
        for k in range(steps):
            point = ((k + 0.5) / steps * bag).requires_grad_()
            total += torch.autograd.grad(model(point[None]).sum(), point)[0]
        return (bag * total / steps).sum(1)
