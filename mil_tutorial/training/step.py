"""How one batch becomes logits and a loss, on one device, in one precision, on as many threads as it is worth."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, cast

import torch
from tensordict import TensorDict
from torch.nn.functional import binary_cross_entropy_with_logits

from mil_tutorial.devices import SMALL, threads
from mil_tutorial.errors import Found, ParameterError, require

BCE = "BCEWithLogitsLoss"  # the name that our models and torchmil's give to the loss of the bag
HIDDEN = 128  # width of the attention's hidden layer, to estimate the work of a step
PRECISIONS = ("float32", "bfloat16", "auto")


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type of the large products: `float32`, `bfloat16`, or `auto`, which is bfloat16 where the processor has it.

    Raises:
        ParameterError: another word.
    """
    require(precision in PRECISIONS, "precision", precision, "'float32', 'bfloat16' or 'auto'")
    if precision == "auto":
        if device.type == "cuda":
            able = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
            able = device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        precision = "bfloat16" if able else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def accepted(method: Callable[..., Any]) -> frozenset[str]:
    """Names of the parameters that a model's method has: it gets those entries of a batch, as in torchmil."""
    return frozenset(inspect.signature(method).parameters)


class Step:
    """A model with what is needed to put batches through it.

    Args:
        model: has `compute_loss(Y, X, ...) -> (logits, {name: loss})`.
        device: where it computes.
        dtype: of the large products.
        pos_weight: weight of tumour bags in the loss.
        large: threads for steps of much work; steps of little work take one, whatever this is. None: as many as torch
            has now.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        pos_weight: float | None = None,
        large: int | None = None,
    ):
        self.model = cast(Any, model)
        self.device, self.dtype = device, dtype
        self.pos_weight = None if pos_weight is None else torch.tensor(float(pos_weight), device=device)
        self.large = torch.get_num_threads() if large is None else large

    @cached_property
    def _loss_takes(self) -> frozenset[str]:
        found = Found(f"{type(self.model).__name__} without `compute_loss`")
        expected = "a model with `compute_loss(Y, X, mask) -> (logits, {name: loss})`"
        require(hasattr(self.model, "compute_loss"), "model", found, expected)
        return accepted(self.model.compute_loss)

    def threads(self, batch: TensorDict) -> AbstractContextManager[None]:
        """As many threads as the batch is worth.

        Its size alone decides, so that equal seeds give equal bits on a busy machine, too.
        """
        if self.device.type != "cpu":
            return contextlib.nullcontext()
        return threads(1 if batch["X"].numel() * HIDDEN < SMALL else self.large)

    def precision(self) -> AbstractContextManager[Any]:
        """Large products in the chosen precision, sums and the softmax in float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def move(self, batch: TensorDict) -> TensorDict:
        """The batch on the device; features in the chosen precision, which halves what the products read."""
        batch = batch.to(self.device, non_blocking=True)
        if self.dtype != torch.float32:
            batch["X"] = batch["X"].to(self.dtype)
        return batch

    def __call__(self, batch: TensorDict) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B,) and the loss of a batch.

        Raises:
            ParameterError: the model cannot give them.
        """
        if "offsets" in batch.keys() and "offsets" not in self._loss_takes:
            found = Found(f"{type(self.model).__name__}, whose compute_loss takes no `offsets`, and packed batches")
            raise ParameterError("model", found, "one that takes packed batches, or padded ones: use `collate_fn`")
        with self.precision():
            entries = {k: batch[k] for k in batch.keys() if k in self._loss_takes}
            logits, losses = self.model.compute_loss(**entries)
        if self.pos_weight is not None:
            known = Found(f"a model with the losses {', '.join(losses)}")
            require(BCE in losses, "pos_weight", known, f"a loss called {BCE}")
            weighted = binary_cross_entropy_with_logits(logits.float(), batch["Y"], pos_weight=self.pos_weight)
            losses = {**losses, BCE: weighted}
        return logits.float(), torch.stack(list(losses.values())).sum()
