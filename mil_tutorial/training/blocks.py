"""ABMIL's pooling in blocks of patches: the numbers of `models.ABMIL`, faster on a processor.

Written plainly, a step reads the features of a bag four times, and each time they come from memory. Here a block of
patches goes through the whole pooling while it lies in the processor's cache, once forward and once backward. The
softmax needs no second pass: each block has its own, and its sum is scaled when the scores of all blocks are known.

It pays for bags of thousands of patches; small ones take the plain way. Blocks are shared out among threads. Their
borders depend on the bags alone and their sums are always added in the same order, so that the numbers are the same on
any number of threads. Within a bag, no thread waits for another, as PyTorch's own would: beside a busy program that
costs them most of their speed. Between two products threads take turns in Python, which costs, too: a block makes as
few calls as it can.

Source: Milakov and Gimelshein, arXiv:1805.02867, put a softmax together from parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Lock
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mil_tutorial.models import ABMIL

ROWS = 2048  # patches of a block at most: few calls to Python, in 6 MB of a cache that others share (768 features)

_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


class Workers:
    """This thread and others that compute blocks, and memory that they use again.

    Args:
        n: threads in all. The caller lets PyTorch compute on one thread, see `devices.threads`: these take its place.
    """

    def __init__(self, n: int):
        self._others, self._pool = n - 1, ThreadPoolExecutor(n - 1) if n > 1 else None
        self._free: list[Tensor] = []

    def map(self, function: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        """`function` of every item, in their order. Each thread takes the next item when it has done one."""
        results, left, lock = [None] * len(items), iter(range(len(items))), Lock()

        def work() -> None:
            with torch.inference_mode(False), torch.no_grad():  # both are a thread's own settings
                while True:
                    with lock:
                        number = next(left, None)
                    if number is None:
                        return
                    results[number] = function(*items[number])

        others = (
            [] if self._pool is None else [self._pool.submit(work) for _ in range(min(self._others, len(items) - 1))]
        )
        work()
        for other in others:
            other.result()
        return results

    def take(self, rows: int, columns: int) -> Tensor:
        """Memory (rows or more, columns): what a step before gave back, if it is large enough."""
        while self._free:
            memory = self._free.pop()
            if len(memory) >= rows and memory.shape[1] == columns:
                return memory
        with torch.inference_mode(False):
            return torch.empty(rows, columns)

    def give_back(self, *memory: Tensor) -> None:
        """For the next step."""
        self._free += memory


def bags_of(batch: TensorDict) -> list[Tensor] | None:
    """The bags (n, D) of a padded or packed batch, without its padding; None if a mask has gaps or a bag is empty."""
    X = batch["X"]
    if "offsets" in batch.keys():
        sizes = batch["offsets"].diff().tolist()
        return list(X.split(sizes)) if min(sizes) > 0 else None
    if "mask" not in batch.keys():
        return list(X)
    mask = batch["mask"].bool()
    sizes = mask.sum(1).tolist()
    if min(sizes) == X.shape[1]:
        return list(X)
    if min(sizes) == 0 or bool((mask[:, 1:] > mask[:, :-1]).any()):
        return None
    return [x[:n] for x, n in zip(X, sizes, strict=True)]


def can_compute(model: nn.Module) -> bool:
    """Whether `pooled` gives what a model does: an `ABMIL` as it is, on a CPU, with no `feat_ext` and no hook."""
    if type(model) is not ABMIL or type(model.feat_ext) is not nn.Identity or model.att_w.bias is not None:
        return False
    layers = [model.att_V, model.att_w, *([] if model.att_U is None else [model.att_U])]
    if any(type(layer) is not nn.Linear for layer in layers):
        return False
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooked = any(getattr(module, kind) for module in model.modules() for kind in kinds)
    plain = all(p.dtype == torch.float32 and p.device.type == "cpu" and p.requires_grad for p in model.parameters())
    return plain and not hooked


def pooled(model: ABMIL, bags: Sequence[Tensor], workers: Workers) -> Tensor:
    """What `ABMIL` makes of bags before its classifier: (B, D), with gradients for its parameters.

    Args:
        model: one that `can_compute` knows.
        bags: (n, D) float32 each, n at least 1.
        workers: who computes.
    """
    gate = (None, None) if model.att_U is None else (model.att_U.weight, model.att_U.bias)
    return _Pooling.apply(
        workers, bags, torch.is_grad_enabled(), model.att_V.weight, model.att_V.bias, model.att_w.weight, *gate
    )


class _Pooling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, workers, bags, train, V, b, w, U, c):  # type: ignore[no-untyped-def]
        bag_of, blocks = _cut(bags)
        sizes = [len(X) for X in blocks]
        memory = [workers.take(sum(sizes), len(V)) for _ in range(1 if U is None else 2)]  # of tanh, and of the gate
        hidden = [m[: sum(sizes)].split(sizes) for m in memory]
        # tanh(a) = 2 sigmoid(2 a) - 1, in a third of the time. Without a gate, the 1 adds the same number to all scores
        # of a bag, which the softmax takes out again.
        w = (2 if U is None else 1) * w[0]

        def compute(X: Tensor, h: Tensor, g: Tensor | None = None) -> tuple[Tensor, Tensor]:
            torch.addmm(b, X, V.t(), beta=2, alpha=2, out=h).sigmoid_()  # (n, L)
            if g is None:
                f = h @ w  # (n,)
            else:
                f = (h.mul_(2).sub_(1) * torch.addmm(c, X, U.t(), out=g).sigmoid_()) @ w
            return f, f.softmax(0) @ X

        items = list(zip(blocks, *hidden, strict=True))
        f, z = zip(*workers.map(compute, items), strict=True)
        # What a block's patches have of its bag's softmax is what its own sum counts in the bag's.
        softmax = torch.cat([scores.softmax(0) for scores in torch.cat(f).split([len(X) for X in bags])]).split(sizes)
        Z = torch.zeros(len(bags), bags[0].shape[1])
        for i, a, part in zip(bag_of, softmax, z, strict=True):
            Z[i].addcmul_(a.sum(), part)
        if train:
            ctx.workers, ctx.bag_of, ctx.softmax, ctx.items, ctx.memory = workers, bag_of, softmax, items, memory
            ctx.save_for_backward(w, Z)
        else:
            workers.give_back(*memory)
        return Z

    @staticmethod
    @once_differentiable
    def backward(ctx, dZ):  # type: ignore[no-untyped-def]
        w, Z = ctx.saved_tensors
        shift = (dZ * Z).sum(1)

        def compute(bag: int, a: Tensor, X: Tensor, h: Tensor, g: Tensor | None = None) -> tuple[Tensor, ...]:
            # The softmax's gradient: weight times (what the patch would change, less what the bag does).
            df = torch.addmv(shift[bag], X, dZ[bag], beta=-1).mul_(a)  # (n,)
            if g is None:
                dw = df @ h  # before the next line writes over h
                dV = _sigmoid_backward(df[:, None].expand_as(h), h, grad_input=h)
                return dw, dV.t() @ X, dV.sum(0)
            du = torch.outer(df, w)  # (n, L)
            dw, dU = df @ (h * g), du * h
            dV = _tanh_backward(du.mul_(g), h, grad_input=du)
            dU = _sigmoid_backward(dU, g, grad_input=dU)
            return dw, dV.t() @ X, dV.sum(0), dU.t() @ X, dU.sum(0)

        # The last blocks first: they are still in the cache.
        items = [(i, a, *item) for i, a, item in zip(ctx.bag_of, ctx.softmax, ctx.items, strict=True)][::-1]
        total, *others = ctx.workers.map(compute, items)
        for part in others:
            for t, p in zip(total, part, strict=True):
                t.add_(p)
        del ctx.items  # their memory is the next step's: a second backward fails, and does not compute with it
        ctx.workers.give_back(*ctx.memory)
        dw, dV, db, *gate = total
        if not gate:  # so far of 2 w, 2 V and 2 b, and without the factor w
            dw, dV, db = 2 * dw, dV.mul_(2 * w[:, None]), db.mul_(2 * w)
        return None, None, None, dV, db, dw[None], *(gate or (None, None))


def _cut(bags: Sequence[Tensor]) -> tuple[list[int], list[Tensor]]:
    """The bags (n, D) in blocks: the number of each block's bag, and its features.

    A bag has an even number of blocks of the same size, so that two threads end together.
    """
    bag_of, blocks = [], []
    for i, X in enumerate(bags):
        n = 2 * -(-len(X) // (2 * ROWS))
        for start, end in pairwise(len(X) * k // n for k in range(n + 1)):
            if end > start:
                bag_of.append(i)
                blocks.append(X[start:end])
    return bag_of, blocks
