"""From TRIDENT's files to a trained model at CAMELYON16's scale, on the device that is there: python benchmarks/gpu.py

398 bags of 2 000 to 10 000 patches x 768 features. Two ways: all bags moved to the device once, or streamed from the
packed store through pinned memory. Without a GPU it runs on the CPU, with fewer bags if asked for.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from training import RUN, OwnMemory, make_tree, ours

from mil_tutorial import ABMIL, bags_in_memory, collate_fn, fit, pack, pick_device, split_bags
from mil_tutorial.training.step import pick_precision


class Clock:
    """Seconds of each part, printed as they pass."""

    def __init__(self):
        self.start = self.last = time.perf_counter()

    def __call__(self, what: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        print(f"  {what:44} {now - self.last:7.2f} s", flush=True)
        self.last = now


def loaders(dataset, batch_size: int, pin: bool):
    train, val = split_bags(dataset)
    more = {"batch_size": batch_size, "collate_fn": collate_fn, "pin_memory": pin}
    generator = torch.Generator().manual_seed(0)
    return DataLoader(train, shuffle=True, generator=generator, **more), DataLoader(val, **more)


def run(root: Path, way: str, epochs: int, precision: str, batch_size: int, compiled: bool) -> None:
    device = pick_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(
        f"{way}, {pick_precision(precision, device)}, {'compiled, ' if compiled else ''}{batch_size} bags a step,"
        f" on {name}"
    )
    clock = Clock()
    store = pack(root / RUN, "random", progress=False)
    clock(f"packed store, {store.features.nbytes / 1e9:.1f} GB")
    dataset = ours(root, ["X", "Y"])
    if way == "moved once":
        dataset = bags_in_memory(dataset, device, progress=False)
        clock("all bags to the device")
    train, val = loaders(dataset, batch_size, pin=way == "streamed" and device.type == "cuda")
    torch.manual_seed(0)
    model = ABMIL(768)
    if compiled:
        model.forward = torch.compile(model.forward, dynamic=True)
    history = fit(model, train, val, epochs=epochs, device=device, precision=precision, progress=False)
    clock(f"{epochs} epochs")
    total = time.perf_counter() - clock.start
    bags = epochs * len(dataset)
    print(
        f"  from files to trained model {total:.2f} s; {bags / total:.0f} bags/s;"
        f" best validation AUC {max(history.val_auc):.3f}"
    )
    if device.type == "cuda":
        print(f"  peak GPU memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--bags", type=int, default=398)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=["moved once", "streamed"], default=["moved once", "streamed"])
    parser.add_argument(
        "--precisions", nargs="+", choices=["float32", "bfloat16", "auto"], default=["float32", "bfloat16"]
    )
    parser.add_argument("--compile", action="store_true", help="also with torch.compile, to see whether it pays")
    args = parser.parse_args()
    root = args.folder / f"bags_{args.bags}"
    make_tree(root, args.bags)
    memory = OwnMemory()
    memory.start()
    for way in args.ways:
        for precision in args.precisions:
            for compiled in (False, True) if args.compile else (False,):
                run(root, way, args.epochs, precision, args.batch_size, compiled)
    print(
        f"peak memory of its own {memory.peak:.2f} GB,"
        f" with mapped pages {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB"
    )


if __name__ == "__main__":
    main()
