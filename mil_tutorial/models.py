"""Attention-based MIL from scratch, and the two baselines it is measured against.

Shapes: B bags in a batch, N patches in the largest bag, n in one bag, Σn in all bags, D features of a patch, H features
after `feat_ext`, L hidden units of the attention.

Source: Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018 (arXiv:1802.04712).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mil_tutorial.errors import Found, ParameterError, require, require_integer


class MILPool(nn.Module):
    """What all models here have in common: a transform of every patch, a pooling, a linear classifier of the bag.

    A model of your own needs `forward`, and `forward_packed` if it shall take packed batches.
    """

    def __init__(self, in_dim: int, feat_ext: nn.Module | None = None):
        super().__init__()
        require_integer("in_dim", in_dim, low=1)
        require(feat_ext is None or isinstance(feat_ext, nn.Module), "feat_ext", feat_ext, "a torch.nn.Module")
        self.in_dim = in_dim
        self.feat_ext = feat_ext if feat_ext is not None else nn.Identity()
        try:
            with torch.no_grad():
                self.dim = self.feat_ext(torch.zeros(1, in_dim)).shape[-1]
        except (RuntimeError, ValueError) as error:  # what layers of another width raise
            found = Found(f"a module that stops ({error!s:.100})")
            raise ParameterError("feat_ext", found, f"one that takes {in_dim} features") from error
        self.classifier = nn.Linear(self.dim, 1)

    def forward(
        self, X: Tensor, mask: Tensor | None = None, return_att: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Classify padded bags.

        Args:
            X: (B, N, D) features.
            mask: (B, N), True or 1 at real patches; all are real by default.
            return_att: also return one raw score for each patch.

        Returns:
            Logits (B,), and raw scores (B, N) if asked for.
        """
        raise NotImplementedError

    def forward_packed(self, X: Tensor, offsets: Tensor, return_att: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Classify packed bags: the same answers as `forward`, with no padding.

        Args:
            X: (Σn, D) features of all bags, one bag behind the other.
            offsets: (B + 1,) where each bag begins, and the end of the last.
            return_att: also return one raw score for each patch.

        Returns:
            Logits (B,), and raw scores (Σn,) if asked for.
        """
        raise NotImplementedError

    def compute_loss(
        self, Y: Tensor, X: Tensor, mask: Tensor | None = None, offsets: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B,) and {name: loss}, the call that torchmil's `Trainer` makes.

        Args:
            Y: (B,) labels, 0 or 1.
            X: (B, N, D) features, or (Σn, D) with `offsets`.
            mask: (B, N), True or 1 at real patches.
            offsets: (B + 1,), if the bags are packed.
        """
        logits = cast(Tensor, self(X, mask) if offsets is None else self.forward_packed(X, offsets))
        return logits, {"BCEWithLogitsLoss": binary_cross_entropy_with_logits(logits.float(), Y.float())}


class ABMIL(MILPool):
    """Attention-based MIL: a weighted mean of the patches, and the model learns the weights.

    Its raw scores are the attention before the softmax.

    Args:
        in_dim: size D of a patch's feature vector.
        att_dim: size L of the attention's hidden layer.
        gated: multiply the hidden layer by a sigmoid gate (equation 9 of the paper).
        feat_ext: module applied to every patch first, (..., D) -> (..., H); nothing by default.

    >>> model = ABMIL(in_dim=4)
    >>> model(torch.zeros(3, 7, 4)).shape  # 3 bags of 7 patches
    torch.Size([3])
    """

    def __init__(self, in_dim: int, att_dim: int = 128, gated: bool = False, feat_ext: nn.Module | None = None):
        super().__init__(in_dim, feat_ext)
        require_integer("att_dim", att_dim, low=1)
        require(isinstance(gated, bool), "gated", gated, "True or False")
        self.att_V = nn.Linear(self.dim, att_dim)
        self.att_U = nn.Linear(self.dim, att_dim) if gated else None
        self.att_w = nn.Linear(att_dim, 1, bias=False)

    def attention(self, h: Tensor) -> Tensor:
        """Raw attention of patches: (..., H) -> (...)."""
        u = torch.tanh(self.att_V(h))  # (..., L)
        if self.att_U is not None:
            u = u * torch.sigmoid(self.att_U(h))
        return self.att_w(u).squeeze(-1)

    def forward(
        self, X: Tensor, mask: Tensor | None = None, return_att: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        h = self.feat_ext(X)  # (B, N, H)
        f = self.attention(h)  # (B, N)
        s = torch.softmax(f if mask is None else f.masked_fill(~mask.bool(), -torch.inf), dim=1)  # (B, N), sums to 1
        z = torch.bmm(s.unsqueeze(1), h).squeeze(1)  # (B, H)
        logits = self.classifier(z).squeeze(-1)  # (B,)
        return (logits, f) if return_att else logits

    def forward_packed(self, X: Tensor, offsets: Tensor, return_att: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        sizes = offsets.diff().tolist()
        h = self.feat_ext(X)  # (Σn, H)
        f = self.attention(h)  # (Σn,)
        z = []
        for h_bag, f_bag in zip(h.split(sizes), f.split(sizes), strict=True):  # (n, H), (n,)
            s = torch.softmax(f_bag, dim=0)  # (n,), sums to 1
            z.append(s.to(h.dtype) @ h_bag)  # (H,)
        logits = self.classifier(torch.stack(z)).squeeze(-1)  # (B,)
        return (logits, f) if return_att else logits


class MeanPool(MILPool):
    """The mean of a bag's patches, classified. Its raw scores are the logits that the patches would get alone."""

    def forward(
        self, X: Tensor, mask: Tensor | None = None, return_att: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        h = self.feat_ext(X)  # (B, N, H)
        weight = torch.ones(X.shape[:2], device=X.device) if mask is None else mask.float()  # (B, N)
        z = (h * weight.unsqueeze(-1)).sum(1) / weight.sum(1, keepdim=True)  # (B, H)
        logits = self.classifier(z).squeeze(-1)  # (B,)
        return (logits, self.classifier(h).squeeze(-1)) if return_att else logits

    def forward_packed(self, X: Tensor, offsets: Tensor, return_att: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        h = self.feat_ext(X)  # (Σn, H)
        z = torch.stack([h_bag.mean(0) for h_bag in h.split(offsets.diff().tolist())])  # (B, H)
        logits = self.classifier(z).squeeze(-1)  # (B,)
        return (logits, self.classifier(h).squeeze(-1)) if return_att else logits


class MaxPool(MILPool):
    """Each patch is classified; the bag is as positive as its most positive patch. Its raw scores are their logits."""

    def forward(
        self, X: Tensor, mask: Tensor | None = None, return_att: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        f = self.classifier(self.feat_ext(X)).squeeze(-1)  # (B, N)
        real = f if mask is None else f.masked_fill(~mask.bool(), -torch.inf)
        logits = real.max(1).values  # (B,)
        return (logits, f) if return_att else logits

    def forward_packed(self, X: Tensor, offsets: Tensor, return_att: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        f = self.classifier(self.feat_ext(X)).squeeze(-1)  # (Σn,)
        logits = torch.stack([f_bag.max(0).values for f_bag in f.split(offsets.diff().tolist())])  # (B,)
        return (logits, f) if return_att else logits
