"""Train a MIL model, keep its best weights, predict. Works with our models and with torchmil's, padded or packed."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

BCE = "BCEWithLogitsLoss"  # the name that our models and torchmil's give to the loss of the bag


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type of the large products: `float32`, `bfloat16`, or `auto`, which takes bfloat16 where the processor computes in it.

    Raises:
        ValueError: another word.
    """
    if precision not in ("float32", "bfloat16", "auto"):
        raise ValueError(f"precision={precision!r}, expected 'float32', 'bfloat16' or 'auto'.")
    if precision == "auto":
        if device.type == "cuda":
            able = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            found = getattr(torch.cpu, "get_capabilities", dict)()
            able = device.type == "cpu" and bool(found.get("avx512_bf16") or found.get("amx_bf16"))
        precision = "bfloat16" if able else "float32"
    return getattr(torch, precision)


class _Step:
    """How a batch becomes logits and a loss, on one device and in one precision."""

    def __init__(self, model, device: torch.device, dtype: torch.dtype, pos_weight: float | None = None):
        self.model, self.device, self.dtype = model, device, dtype
        self.pos_weight = None if pos_weight is None else torch.tensor(float(pos_weight), device=device)

    def precision(self):
        """Large products in the chosen precision, sums and the softmax in float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def move(self, batch):
        """The batch on the device; features in the chosen precision, which halves what the products read."""
        batch = batch.to(self.device, non_blocking=True)
        if self.dtype != torch.float32:
            batch["X"] = batch["X"].to(self.dtype)
        return batch

    def __call__(self, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B,) and the loss of a batch."""
        Y = batch["Y"]
        with self.precision():
            if "offsets" in batch.keys():
                logits = self.model.forward_packed(batch["X"], batch["offsets"])
                losses = {BCE: binary_cross_entropy_with_logits(logits.float(), Y)}
            else:
                logits, losses = _call(self.model.compute_loss, batch)
        if self.pos_weight is not None:
            if BCE not in losses:
                raise ValueError(f"pos_weight needs a loss called {BCE}, this model has {', '.join(losses)}.")
            losses = {**losses, BCE: binary_cross_entropy_with_logits(logits.float(), Y, pos_weight=self.pos_weight)}
        return logits.float(), sum(losses.values())


def _call(function: Callable, batch, **more):
    """Call a model's method with those entries of the batch that it has parameters for, as torchmil does."""
    wanted = inspect.signature(function).parameters
    return function(**{k: batch[k] for k in batch.keys() if k in wanted}, **more)
