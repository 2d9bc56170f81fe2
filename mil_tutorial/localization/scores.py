"""Where the answer came from: scores of one slide's patches, and what they say together, its localization."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import softmax
from scipy.stats import rankdata

from mil_tutorial.errors import Found, ParameterError, require
from mil_tutorial.evaluation.weighted import as_finite, as_probabilities
from mil_tutorial.geometry import as_scores
from mil_tutorial.localization.detections import find_detections
from mil_tutorial.trident import Patches


def attention_times_n(raw: ArrayLike) -> np.ndarray:
    """Fair shares of attention: softmax of the raw attention times the number of patches. (n,) -> (n,).

    Unlike min-max scaling, which makes some patch of every slide look guilty, an even slide stays at 1 everywhere.

    >>> attention_times_n([0.0, 0.0, 0.0])
    array([1., 1., 1.])

    Raises:
        ParameterError: a value is NaN, infinite or not a number.
    """
    raw = as_scores(raw, None, parameter="raw")
    return softmax(raw) * len(raw) if len(raw) else raw


def scale_rank(score: ArrayLike) -> np.ndarray:
    """Ranks in [0, 1], ties averaged: for an image of the order, not of the size. (n,) -> (n,).

    Raises:
        ParameterError: a value is NaN, infinite or not a number.
    """
    score = as_scores(score, None)
    return (rankdata(score) - 1) / max(1, len(score) - 1)


def scale_min_max(score: ArrayLike) -> np.ndarray:
    """Smallest 0, largest 1, constant scores 0.5: what the original tutorial draws. (n,) -> (n,).

    Raises:
        ParameterError: a value is NaN, infinite or not a number.
    """
    score = as_scores(score, None)
    span = np.ptp(score) if len(score) else 0.0
    return (score - score.min()) / span if span > 0 else np.full(len(score), 0.5)


def detection_score(probability: float, share: ArrayLike) -> np.ndarray:
    """The score of patches as detections: `probability * share / (1 + share)`.

    Softmax weights shrink as a slide has more patches, so that detections of large slides could never be ranked with
    those of small ones; fair shares do not depend on the number of patches, and s / (1 + s) maps them into [0, 1).

    >>> detection_score(0.8, [0.0, 1.0, 3.0])
    array([0. , 0.4, 0.6])

    Args:
        probability: the slide's predicted probability of tumour.
        share: (n,) fair shares of attention, see `attention_times_n`.

    Returns:
        (n,) from 0 to `probability`.

    Raises:
        ParameterError: `probability` is outside [0, 1], or a share is negative, NaN or infinite.
    """
    prob, share = as_probabilities(probability, parameter="probability"), as_finite(share, parameter="share")
    lowest = share.min(initial=0)
    require(lowest >= 0, "share", Found(f"{lowest:g} among the shares"), "at least 0, as attention_times_n gives them")
    return prob * share / (1 + share)


def as_bag(model: torch.nn.Module, X: torch.Tensor) -> torch.Tensor:
    """One bag's features (n, D) on the model's device.

    Raises:
        ParameterError: not a finite tensor (n, D) with at least one patch, or another D than the model's `in_dim`.
    """
    dim = getattr(model, "in_dim", None)
    expected = f"a finite tensor (n, {dim if isinstance(dim, int) else 'D'}) of at least one patch's features"
    require(isinstance(X, torch.Tensor), "X", Found(type(X).__name__), expected)
    good = X.ndim == 2 and len(X) > 0 and (not isinstance(dim, int) or X.shape[1] == dim)
    require(good, "X", Found(f"shape {tuple(X.shape)}"), expected)
    bad = int((~torch.isfinite(X)).sum())
    require(not bad, "X", Found(f"{bad} values that are NaN or infinite"), expected)
    return X.detach().to(next((p.device for p in model.parameters()), X.device))


def _explain(model: torch.nn.Module, X: torch.Tensor) -> tuple[float, dict[str, np.ndarray]]:
    """The bag's probability and its patches' scores, from one forward pass."""
    features = as_bag(model, X)
    model.eval()
    with torch.inference_mode(False), torch.enable_grad():  # also where the caller has switched gradients off
        bag = features.clone().float()[None].requires_grad_()
        logit, raw_attention = _with_attention(model, bag)
        (gradient,) = torch.autograd.grad(logit.sum(), bag)
    raw = raw_attention[0].detach().double().cpu().numpy()
    out = {"raw attention": raw, "attention x n": attention_times_n(raw), "rank": scale_rank(raw)}
    if all(hasattr(model, part) for part in ("feat_ext", "attention", "classifier")):
        abmil: Any = model
        with torch.inference_mode():
            h = abmil.feat_ext(bag)[0]  # (n, H)
            weight = torch.softmax(abmil.attention(h), 0)
            out["logit contribution"] = (weight * (h @ abmil.classifier.weight[0])).double().cpu().numpy()
    out["gradient x input"] = (gradient * bag)[0].sum(1).detach().double().cpu().numpy()
    return float(torch.sigmoid(logit.detach().float())), out


def _with_attention(model: torch.nn.Module, bag: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (1,) and raw attention (1, n) of a bag (1, n, D)."""
    kind = type(model).__name__
    expected = "a model whose forward(X, return_att=True) gives logits (B,) and raw attention (B, n)"
    signature = inspect.signature(model.forward)
    try:
        signature.bind(bag, return_att=True)
    except TypeError:
        raise ParameterError("model", Found(f"{kind} with forward{signature}"), expected) from None
    answer = model(bag, return_att=True)
    good = isinstance(answer, tuple) and len(answer) == 2 and all(isinstance(a, torch.Tensor) for a in answer)
    require(good, "model", Found(f"{kind}, which gives {type(answer).__name__}"), expected)
    shapes = [tuple(a.shape) for a in answer]
    good = answer[0].numel() == 1 and answer[1].numel() == bag.shape[1]  # torchmil's DSMIL gives (1, n, 1)
    require(good, "model", Found(f"{kind}, which gives {shapes} for one bag of {bag.shape[1]} patches"), expected)
    finite = all(bool(torch.isfinite(a).all()) for a in answer)
    found = Found(f"{kind}, which gives NaN or infinite values for finite features")
    require(finite, "model", found, "finite weights: its training diverged. Lower the learning rate")
    return answer[0], answer[1].reshape(bag.shape[:2])


def patch_scores(model: torch.nn.Module, X: torch.Tensor) -> dict[str, np.ndarray]:
    """All scores of one bag's patches.

    Args:
        model: `ABMIL`, or any model that takes `return_att`; what a model cannot give is left out.
        X: (n, D) features.

    Returns:
        name -> (n,) float64:
        raw attention: what the network computes, on no particular scale;
        attention x n: softmax times n, 1 is a fair share;
        rank: place in the order, 0 to 1;
        logit contribution: what the patch adds to the bag's logit (ABMIL only; their sum and the classifier's bias give
        the logit);
        gradient x input: the same to first order, for any model.

    Raises:
        ParameterError: the model gives no attention, or X is not a finite tensor (n, D) of the model's D.

    Source: gradient x input, Shrikumar et al. 2016 (arXiv:1605.01713).
    """
    return _explain(model, X)[1]


@dataclass(frozen=True)
class SlideLocalization:
    """What a model finds on one slide.

    Attributes:
        probability: of tumour on the slide, as `predict` gives it.
        scores: name -> (n,) of the patches, as `patch_scores` gives them.
        detections: (k, 3) score, x, y of patch centres in level-0 pixels, best first.
    """

    probability: float
    scores: dict[str, np.ndarray]
    detections: np.ndarray


def localize_slide(model: torch.nn.Module, X: torch.Tensor, patches: Patches) -> SlideLocalization:
    """Is there tumour on a slide, and where: its probability, its patches' scores and the detections among them.

    Args:
        model: as for `patch_scores`.
        X: (n, D) features of the slide's patches.
        patches: the same patches, row for row, as `read_patches` gives them.

    Raises:
        ParameterError: as `patch_scores`, or X and `patches` differ in number.
    """
    good = isinstance(patches, Patches)
    require(good, "patches", Found(type(patches).__name__), "Patches, as read_patches gives them")
    probability, scores = _explain(model, X)
    n = len(patches.coords)
    require(len(X) == n, "X", Found(f"{len(X)} rows"), f"one for each of the {n} patches")
    score = detection_score(probability, scores["attention x n"])
    detections = find_detections(score, patches.coords, patches.geometry.patch_size_level0)
    return SlideLocalization(probability, scores, detections)
