"""Attention-based MIL from scratch, and the two baselines it is measured against.

Source: Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018 (arXiv:1802.04712).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


class MILPool(nn.Module):
    """What all three models share: a transform of every patch, a pooling, a linear classifier of the bag."""

    def __init__(self, in_dim: int, feat_ext: nn.Module | None = None):
        super().__init__()
        self.in_dim = in_dim
        self.feat_ext = feat_ext if feat_ext is not None else nn.Identity()
        with torch.no_grad():
            self.dim = self.feat_ext(torch.zeros(1, in_dim)).shape[-1]
        self.classifier = nn.Linear(self.dim, 1)

    def compute_loss(self, Y: Tensor, X: Tensor, mask: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B,) and {name: loss}, the call that torchmil's `Trainer` makes. Y is (B,) of 0 and 1."""
        logits = self(X, mask)
        return logits, {"BCEWithLogitsLoss": binary_cross_entropy_with_logits(logits.float(), Y.float())}


class ABMIL(MILPool):
    """Attention-based MIL.

    Args:
        in_dim: size D of a patch's feature vector.
        att_dim: size L of the attention's hidden layer.
        gated: multiply the hidden layer by a sigmoid gate (equation 9 of the paper).
        feat_ext: module applied to every patch first, (..., D) -> (..., H); nothing by default.
    """

    def __init__(self, in_dim: int, att_dim: int = 128, gated: bool = False, feat_ext: nn.Module | None = None):
        super().__init__(in_dim, feat_ext)
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
        """Classify padded bags.

        Args:
            X: (B, N, D) features.
            mask: (B, N), True or 1 at real patches; all are real by default.
            return_att: also return the raw attention, before the softmax.

        Returns:
            Logits (B,), and raw attention (B, N) if asked for.
        """
        h = self.feat_ext(X)  # (B, N, H)
        f = self.attention(h)  # (B, N)
        s = torch.softmax(f if mask is None else f.masked_fill(~mask.bool(), -torch.inf), dim=1)  # (B, N), sums to 1
        z = torch.bmm(s.unsqueeze(1), h).squeeze(1)  # (B, H)
        logits = self.classifier(z).squeeze(-1)  # (B,)
        return (logits, f) if return_att else logits

    def forward_packed(self, X: Tensor, offsets: Tensor, return_att: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Classify packed bags: X (sum of n, D), offsets (B + 1,); the same answers as `forward`, with no padding.

        Returns:
            Logits (B,), and raw attention (sum of n,) if asked for.
        """
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
    """The mean of a bag's patches, classified. Its "attention" is the logit that each patch would get alone."""

    def forward(
        self, X: Tensor, mask: Tensor | None = None, return_att: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        h = self.feat_ext(X)  # (B, N, H)
        weight = torch.ones(X.shape[:2], device=X.device) if mask is None else mask.float()
        z = (h * weight.unsqueeze(-1)).sum(1) / weight.sum(1, keepdim=True)  # (B, H)
        logits = self.classifier(z).squeeze(-1)
        return (logits, self.classifier(h).squeeze(-1)) if return_att else logits


class MaxPool(MILPool):
    """Each patch is classified; the bag is as positive as its most positive patch."""

    def forward(
        self, X: Tensor, mask: Tensor | None = None, return_att: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        scores = self.classifier(self.feat_ext(X)).squeeze(-1)  # (B, N)
        real = scores if mask is None else scores.masked_fill(~mask.bool(), -torch.inf)
        logits = real.max(1).values
        return (logits, scores) if return_att else logits
