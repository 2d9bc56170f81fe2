"""How one batch becomes logits and a loss, on one device, in one precision, on as many threads as it is worth."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, cast

import torch
from tensordict import TensorDict
from torch.nn.functional import binary_cross_entropy_with_logits

from mil_tutorial.devices import SMALL, threads
from mil_tutorial.errors import Found, require
from mil_tutorial.training import blocks

BCE = "BCEWithLogitsLoss"  # the name that our models and torchmil's give to the loss of the bag
HIDDEN = 128  # width of the attention's hidden layer, to estimate the work of a step
PRECISIONS = ("float32", "bfloat16", "auto")
LOSS_CALL = "`compute_loss(Y, X, ...) -> (logits (B,), {name: loss})`"
SCORES_CALL = "`forward(X, ..., return_att=True) -> (logits (B,), one raw score for each patch)`"


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


def _parameters(method: Callable[..., Any]) -> dict[str, bool]:
    """Parameters of a model's method, and whether they must be given."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [p for p in inspect.signature(method).parameters.values() if p.kind not in variable]
    return {p.name: p.default is p.empty for p in named}


class Step:
    """A model with what is needed to put batches through it.

    Args:
        model: is moved to the device.
        device: where it computes.
        dtype: of the large products.
        pos_weight: weight of tumour bags in the loss.
        large: threads for steps of much work; steps of little work take one, whatever this is. None: as many as torch
            has now.

    Raises:
        ParameterError: `model` is not a torch module.
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
        self.name = type(model).__name__
        require(isinstance(model, torch.nn.Module), "model", Found(f"a {self.name}"), "a torch.nn.Module")
        self.model = cast(Any, model.to(device))
        self.device, self.dtype = device, dtype
        self.pos_weight = None if pos_weight is None else torch.tensor(float(pos_weight), device=device)
        self.large = torch.get_num_threads() if large is None else large
        self._workers = blocks.Workers(self.large)

    @cached_property
    def _loss_takes(self) -> dict[str, bool]:
        has = hasattr(self.model, "compute_loss")
        require(has, "model", Found(f"{self.name} without `compute_loss`"), f"a model with {LOSS_CALL}")
        return _parameters(self.model.compute_loss)

    @cached_property
    def _forward_takes(self) -> dict[str, bool]:
        takes = _parameters(self.model.forward)
        found = Found(f"{self.name} without `return_att`")
        require("return_att" in takes, "model", found, f"a model that gives its attention: {SCORES_CALL}")
        return takes

    def loading(self) -> AbstractContextManager[None]:
        """One thread while a loader makes batches, as PyTorch has it in a loader's workers.

        Threads that only copied a small batch would go on waiting for work, and take the time of the step.
        """
        return threads(1) if self.device.type == "cpu" else contextlib.nullcontext()

    def threads(self, batch: TensorDict) -> AbstractContextManager[None]:
        """As many threads as the batch is worth.

        Its size alone decides, so that equal seeds give equal bits on a busy machine, too.
        """
        if self.device.type != "cpu":
            return contextlib.nullcontext()
        return threads(1 if self._is_small(batch) or self._knows_blocks else self.large)

    @staticmethod
    def _is_small(batch: TensorDict) -> bool:
        return batch["X"].numel() * HIDDEN < SMALL

    @cached_property
    def _knows_blocks(self) -> bool:
        """Whether large batches of this model are computed in blocks of patches, which share out the work."""
        return self.dtype == torch.float32 and blocks.can_compute(self.model)

    def _compute_in_blocks(self, batch: TensorDict) -> tuple[torch.Tensor, dict[str, torch.Tensor]] | None:
        """What the model's `compute_loss` gives, for a large batch; None where its own way is the one to take."""
        if self._is_small(batch) or not self._knows_blocks or batch["X"].dtype != torch.float32:
            return None
        bags = blocks.bags_of(batch)
        if bags is None:
            return None
        logits = self.model.classifier(blocks.pooled(self.model, bags, self._workers)).squeeze(-1)
        return logits, {BCE: binary_cross_entropy_with_logits(logits, batch["Y"].float())}

    def _precision(self) -> AbstractContextManager[Any]:
        """Large products in the chosen precision, sums and the softmax in float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def move(self, batch: TensorDict, *, loader: str) -> TensorDict:
        """The batch on the device; features in the chosen precision, which halves the memory that the products read.

        Raises:
            ParameterError: not a batch of bags; it names the parameter `loader`.
        """
        good = isinstance(batch, TensorDict) and {"X", "Y"} <= set(batch.keys()) and batch["Y"].ndim == 1
        expected = "batches that `collate_fn` makes from bags with the keys X and Y"
        require(good, loader, Found(f"batches of another kind: {type(batch).__name__}"), expected)
        if any(value.device != self.device for value in batch.values()):
            batch = batch.to(self.device, non_blocking=True)
        if self.dtype != torch.float32:
            batch = batch.copy()  # the loader's own stays as it is
            with self.threads(batch):
                batch["X"] = batch["X"].to(self.dtype)
        return batch

    def _entries(self, batch: TensorDict, takes: Mapping[str, bool], method: str) -> dict[str, torch.Tensor]:
        """Those entries of a batch that a method has parameters for, as in torchmil.

        Raises:
            ParameterError: the batch lacks one that the method cannot do without.
        """
        needed = [key for key, must in takes.items() if must and key not in batch.keys()]
        lacking = Found(f"{self.name}, whose {method} needs {', '.join(needed)}, which the batches lack")
        require(not needed, "model", lacking, "bags that hold it, see bag_keys, or another model")
        return {key: batch[key] for key in takes if key in batch.keys()}

    def __call__(self, batch: TensorDict) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B,) and the loss of a batch.

        Raises:
            ParameterError: the model cannot give them.
        """
        takes = self._loss_takes
        packed = Found(f"{self.name}, whose compute_loss takes no `offsets`, and packed batches")
        good = "offsets" not in batch.keys() or "offsets" in takes
        require(good, "model", packed, "one that takes packed batches, or padded ones: use `collate_fn`")
        answer = self._compute_in_blocks(batch)
        if answer is None:
            with self._precision():
                answer = self.model.compute_loss(**self._entries(batch, takes, "compute_loss"))
        good = isinstance(answer, tuple) and len(answer) == 2 and _is_logits(answer[0], batch)
        good = good and isinstance(answer[1], (Mapping, TensorDict)) and len(answer[1].keys()) > 0
        require(good, "model", Found(f"{self.name}, whose compute_loss gives something else"), LOSS_CALL)
        logits, losses = answer
        if self.pos_weight is not None:
            known = Found(f"a model with the losses {', '.join(losses)}")
            require(BCE in losses, "pos_weight", known, f"a loss called {BCE}")
            weighted = binary_cross_entropy_with_logits(logits.float(), batch["Y"], pos_weight=self.pos_weight)
            losses = {**losses, BCE: weighted}
        values = list(losses.values())
        return logits.float(), values[0] if len(values) == 1 else torch.stack(values).sum()

    def scores(self, batch: TensorDict) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits (B,), and raw attention of the patches of each bag, (n,) each.

        Raises:
            ParameterError: the model cannot give them.
        """
        takes, X = self._forward_takes, batch["X"]
        packed = "offsets" in batch.keys()
        found = Found(f"{self.name} without `forward_packed`, and packed batches")
        good = not packed or hasattr(self.model, "forward_packed")
        require(good, "model", found, "padded batches for this model: use `collate_fn`")
        with self._precision():
            if packed:
                answer = self.model.forward_packed(X, batch["offsets"], return_att=True)
            else:
                answer = self.model(**self._entries(batch, takes, "forward"), return_att=True)
        shape = X.shape[:-1]  # (B, N), or (Σn,) of packed bags
        good = isinstance(answer, tuple) and len(answer) == 2 and _is_logits(answer[0], batch)
        good = good and isinstance(answer[1], torch.Tensor) and answer[1].shape in (shape, (*shape, 1))
        require(good, "model", Found(f"{self.name}, whose forward gives something else"), SCORES_CALL)
        logits, raw = answer[0].float(), answer[1].float().reshape(shape)
        if packed:
            return logits, list(raw.split(batch["offsets"].diff().tolist()))
        real = batch["mask"].bool() if "mask" in batch.keys() else torch.ones_like(raw, dtype=torch.bool)
        return logits, [a[m] for a, m in zip(raw, real, strict=True)]


def _is_logits(logits: object, batch: TensorDict) -> bool:
    """Whether a model's logits are one number for each bag of the batch."""
    return isinstance(logits, torch.Tensor) and logits.shape == batch["Y"].shape
