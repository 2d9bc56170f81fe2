"""What each patch does to the answer: ask the model about it alone, without it, and along the way from an empty bag."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mil_tutorial.errors import Found, require, require_integer
from mil_tutorial.localization.scores import as_bag
from mil_tutorial.models import ABMIL, MeanPool, MILPool

CHUNK = 2**24  # numbers of a batch's features: 64 MB


def perturbation_scores(model: torch.nn.Module, X: torch.Tensor, *, steps: int = 20) -> dict[str, np.ndarray]:
    """Scores of one bag's patches that need no attention: the model is only asked, so it may be any.

    `ABMIL` and `MeanPool` are sums over patches, so that `leave one out` takes one forward pass. Other models are asked
    once for each patch, about all the others: use them on slides of some hundred patches.

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
    require(len(bag) > 1, "X", Found("one patch"), "at least two: without it the bag would be empty")
    model.eval()
    with torch.inference_mode():
        rows = max(1, CHUNK // bag.shape[1])
        single = torch.cat([model(part[:, None]) for part in bag.split(rows)])
        if isinstance(model, MILPool) and type(model).forward in (ABMIL.forward, MeanPool.forward):
            without = _lost_of_sum(model, bag)
        else:
            without = _lost(model, bag, range(len(bag)))
    found = {
        "single patch": single,
        "leave one out": without,
        "integrated gradients": _integral(model, bag, steps),
    }
    return {name: value.cpu().double().numpy() for name, value in found.items()}


def _lost(model: torch.nn.Module, bag: torch.Tensor, chosen: Sequence[int]) -> torch.Tensor:
    """The bag's logit less its logit without a patch, for each chosen one (k,): by asking, some bags in a batch."""
    patches = torch.tensor(chosen, device=bag.device)
    place = torch.arange(len(bag) - 1, device=bag.device)
    logits = [
        model(bag[place + (place >= part[:, None])])  # (b, n - 1, D)
        for part in patches.split(max(1, CHUNK // bag.numel()))
    ]
    return model(bag[None]) - torch.cat(logits)


def _lost_of_sum(model: MILPool, bag: torch.Tensor) -> torch.Tensor:
    """The same for all patches of a model whose logit is Σ sᵢ eᵢ + bias, with weights s that sum to 1.

    Without patch i it is (Σ sⱼ eⱼ - sᵢ eᵢ) / (1 - sᵢ) + bias, so that sᵢ (eᵢ - Σ sⱼ eⱼ) / (1 - sᵢ) are lost. Where
    sᵢ is nearly 1, little of that is exact: the one patch that may hold more than half of the weight is asked about.
    """
    h = model.feat_ext(bag)  # (n, H)
    raw = model.attention(h) if isinstance(model, ABMIL) else torch.zeros(len(h), device=h.device)
    s = torch.softmax(raw.cpu().double(), 0)
    e = (h @ model.classifier.weight[0]).cpu().double()
    most = int(s.argmax())
    lost = s * (e - s @ e) / (1 - s.clamp(max=0.5))
    if s[most] > 0.5:
        lost[most] = _lost(model, bag, [most])[0]
    return lost


def _integral(model: torch.nn.Module, bag: torch.Tensor, steps: int) -> torch.Tensor:
    """Gradient times input, averaged over the middles of `steps` equal parts of the way from zero to the bag: (n,)."""
    with torch.inference_mode(False), torch.enable_grad():  # also where the caller has switched gradients off
        bag = bag.clone()
        total = torch.zeros_like(bag)
        for k in range(steps):
            point = ((k + 0.5) / steps * bag).requires_grad_()
            total += torch.autograd.grad(model(point[None]).sum(), point)[0]
        return (bag * total / steps).sum(1)
