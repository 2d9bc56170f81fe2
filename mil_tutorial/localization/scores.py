"""From patch scores to places: comparable scores, detections, and files that other programs read."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import softmax


def attention_times_n(raw: np.ndarray) -> np.ndarray:
    """Softmax of the raw attention times the number of patches: 1 is a patch's fair share. (n,) -> (n,).

    Unlike min-max scaling, which makes some patch of every slide look guilty, an even slide stays at 1 everywhere.
    """
    raw = np.asarray(raw, np.float64)
    return softmax(raw) * len(raw)


def scale_rank(score: np.ndarray) -> np.ndarray:
    """Ranks in [0, 1], ties averaged: for a picture of the order, not of the size. (n,) -> (n,)."""
    from scipy.stats import rankdata

    score = np.asarray(score, np.float64)
    return (rankdata(score) - 1) / max(1, len(score) - 1)


def scale_min_max(score: np.ndarray) -> np.ndarray:
    """Smallest 0, largest 1, constant scores 0.5: what the original tutorial draws. (n,) -> (n,)."""
    score = np.asarray(score, np.float64)
    span = np.ptp(score) if len(score) else 0.0
    return (score - score.min()) / span if span > 0 else np.full(len(score), 0.5)


def patch_scores(model: torch.nn.Module, X: torch.Tensor) -> dict[str, np.ndarray]:
    """All scores of one bag's patches.

    Args:
        model: `ABMIL`, or any model that takes `return_att`; what a model cannot give is left out.
        X: (n, D) features.

    Returns:
        name -> (n,) float64:
        raw attention: what the network says, on no particular scale;
        attention x n: softmax times n, 1 is a fair share;
        rank: place in the order, 0 to 1;
        logit contribution: what the patch adds to the bag's logit (ABMIL only; with the classifier's bias they add up to it);
        gradient x input: the same to first order, for any model.

    Source: gradient x input, Shrikumar et al. 2016 (arXiv:1605.01713).
    """
    model.eval()
    device = next(model.parameters()).device
    bag = X.detach().to(device).float()[None].requires_grad_()
    logit, raw = model(bag, return_att=True)
    (gradient,) = torch.autograd.grad(logit.sum(), bag)
    raw = raw[0].detach().double().cpu().numpy()
    out = {"raw attention": raw, "attention x n": attention_times_n(raw), "rank": scale_rank(raw)}
    if hasattr(model, "attention"):
        with torch.inference_mode():
            h = model.feat_ext(bag)[0]  # (n, H)
            share = torch.softmax(model.attention(h), 0)
            out["logit contribution"] = (share * (h @ model.classifier.weight[0])).double().cpu().numpy()
    out["gradient x input"] = (gradient * bag)[0].sum(1).detach().double().cpu().numpy()
    return out
