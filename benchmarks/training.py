"""Bags and training against torchmil on the same TRIDENT files, side by side in one run: python benchmarks/training.py

Opening, reading, adjacency, training with validation. Results are compared; ratios and peak memory are printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import threading
import time
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from mil_tutorial import ABMIL, Geometry, TridentWSIDataset, collate_fn, fit, pack, trident
from mil_tutorial.training.predict import mean_loss
from mil_tutorial.training.recipe import LEARNING_RATE, WEIGHT_DECAY

RUN = "20x_512px_0px_overlap"
DEFAULT_KEYS = ["X", "Y", "y_inst", "adj", "coords"]


def make_tree(root: Path, bags: int, dim: int = 768, seed: int = 0) -> None:
    """`bags` slides of 2 000 to 10 000 patches, in the layout that TRIDENT writes: one chunk a row."""
    if (root / "wsi_labels.csv").exists():
        return
    rng = np.random.default_rng(seed)
    run = root / RUN
    for folder in ("patches", "features_random", "patch_labels"):
        (run / folder).mkdir(parents=True, exist_ok=True)
    names = [f"slide_{i:03d}" for i in range(bags)]
    direction = rng.standard_normal(dim, np.float32)
    for i, name in enumerate(tqdm(names, desc="Making bags", unit="bag")):
        n = int(rng.integers(2000, 10_001))
        g = Geometry.for_slide(mpp=0.243, width=1024 * 120, height=1024 * 120, magnification=20, patch_size=512)
        coords = g.grid()[rng.permutation(120 * 120)[:n]]
        coords = coords[np.lexsort((coords[:, 0], coords[:, 1]))]
        trident.write_patches(run / "patches" / f"{name}_patches.h5", coords, g)
        features = rng.standard_normal((n, dim), np.float32)
        tumor = np.zeros(n, np.int8)
        if i % 2:
            tumor[rng.permutation(n)[: n // 20]] = 1
            features[tumor == 1] += 0.3 * direction
        with h5py.File(run / "features_random" / f"{name}.h5", "w") as file:
            file.create_dataset("features", data=features, chunks=(1, dim), maxshape=(None, dim))
            file.create_dataset("coords", data=coords, chunks=(1, 2), maxshape=(None, 2))
        with h5py.File(run / "patch_labels" / f"{name}.h5", "w") as file:
            file.create_dataset("patch_labels", data=tumor)
    pd.DataFrame({"wsi_name": names, "wsi_label": [i % 2 for i in range(bags)]}).to_csv(
        root / "wsi_labels.csv", index=False
    )


def ours(root: Path, keys, **more) -> TridentWSIDataset:
    return TridentWSIDataset(root / RUN, root / "wsi_labels.csv", "random", bag_keys=keys, **more)


def theirs(root: Path, keys, **more):
    from torchmil.datasets import TridentWSIDataset as Theirs

    return Theirs(
        base_path=f"{root / RUN}/",
        labels_path=str(root / "wsi_labels.csv"),
        feature_extractor="random",
        bag_keys=keys,
        patch_labels_path=f"{root / RUN}/patch_labels/",
        patch_size=1024,
        wsi_name_col="wsi_name",
        wsi_label_col="wsi_label",
        **more,
    )


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def report(what: str, fast: float, slow: float, unit: str = "bags/s", note: str = "") -> None:
    print(f"{what:44} ours {fast:9.1f}  torchmil {slow:7.2f} {unit}   ratio {fast / slow:7.1f}   {note}", flush=True)


def read_all(dataset) -> None:
    """Every bag once, every feature touched."""
    for i in range(len(dataset)):
        dataset[i]["X"].sum()


def opening(root: Path, rounds: int = 2) -> None:
    """In turn; the best of each counts, as a machine's first use of its memory is slow."""
    for what, options in (("its defaults: loads all", {}), ("load_at_init=False", {"load_at_init": False})):
        fast, slow = [], []
        for _ in range(rounds):
            fast.append(seconds(lambda: ours(root, DEFAULT_KEYS)[0]))
            slow.append(seconds(lambda o=options: theirs(root, DEFAULT_KEYS, **o)[0]))
        report(f"open, first bag ({what})", 1 / min(fast), 1 / min(slow), "times/s")


def reading(root: Path) -> None:
    for keys, what in ((["X", "Y"], "X, Y"), (DEFAULT_KEYS, "all keys")):
        slow = seconds(lambda k=keys: read_all(theirs(root, k, load_at_init=False)))
        plain = seconds(lambda k=keys: read_all(ours(root, k, packed=False)))
        n = len(ours(root, keys))
        report(f"read every bag, {what}, TRIDENT's files", n / plain, n / slow)
        pack(root / RUN, "random", progress=False)
        packed = ours(root, keys)
        assert packed.store is not None
        fast = seconds(lambda d=packed: read_all(d))
        report(f"read every bag, {what}, packed", n / fast, n / slow)
        build = seconds(lambda d=packed: [d[i] for i in range(len(d))])
        report(f"  without touching the features, {what}", n / build, n / slow)
    shutil.rmtree(packed.store.folder)  # training takes what a user has who packs nothing


def adjacency(root: Path) -> None:
    from mil_tutorial import build_adjacency

    their = theirs(root, DEFAULT_KEYS, load_at_init=False)
    our = ours(root, DEFAULT_KEYS)
    cells = [our[i]["coords"].numpy() for i in range(6)]
    features = [our[i]["X"].numpy() for i in range(6)]
    slow, fast = [], []
    for _ in range(3):  # all bags in turn; the best counts, as a machine's first use of its memory is slow
        start = time.perf_counter()
        slow_matrices = [their._build_adj({"coords": c, "X": X}) for c, X in zip(cells, features, strict=True)]
        middle = time.perf_counter()
        matrices = [build_adjacency(c) for c in cells]
        slow.append(middle - start)
        fast.append(time.perf_counter() - middle)
    for A, (index, _, weight), c in zip(matrices, slow_matrices, cells, strict=True):
        T = torch.sparse_coo_tensor(
            torch.as_tensor(np.asarray(index)), torch.as_tensor(np.asarray(weight)), (len(c),) * 2
        )
        T = T.coalesce()
        assert torch.equal(A.indices(), T.indices()) and torch.allclose(A.values(), T.values().float(), atol=1e-6)
    report("adjacency", len(cells) / min(fast), len(cells) / min(slow), "bags/s", "the same matrices")


class OwnMemory(threading.Thread):
    """The largest memory of this process that no file stands behind, in GB (Linux)."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0.0

    def run(self):
        while True:
            text = Path("/proc/self/status").read_text()
            self.peak = max(self.peak, int(text.split("RssAnon:")[1].split()[0]) / 2**20)
            time.sleep(0.05)


def in_process(function, *arguments):
    """Run in a process of its own, so that its peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _loaders(dataset, n_train: int, collate):
    indices = [list(range(n_train)), list(range(n_train, len(dataset)))]
    parts = [torch.utils.data.Subset(dataset, i) for i in indices]
    return [DataLoader(p, batch_size=1, collate_fn=collate) for p in parts]


def train_theirs(root: Path, keys, epochs: int):
    """torchmil's dataset in memory, its collate and its Trainer; validation in each epoch."""
    import torchmetrics
    from torchmil.data import collate_fn as their_collate
    from torchmil.utils import Trainer

    warnings.simplefilter("ignore")
    dataset = theirs(root, keys)
    train, val = _loaders(dataset, len(dataset) * 3 // 4, lambda bags: _squeeze(their_collate(bags)))
    torch.manual_seed(0)
    model = ABMIL(768)  # ours in both, so that the losses can be compared
    trainer = Trainer(
        model,
        torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        obj_metric="acc",
        device="cpu",
        verbose=False,
        metrics_dict={"acc": torchmetrics.Accuracy(task="binary")},
        disable_pbar=True,
    )
    trainer.train(1, train, val)
    start = time.perf_counter()
    trainer.train(epochs, train, val)
    took = time.perf_counter() - start
    return epochs * len(dataset) / took, mean_loss(model, val, device="cpu")[0], _peak()


def _squeeze(batch):
    batch["Y"] = batch["Y"].reshape(-1).float()
    return batch


def train_ours(root: Path, keys, epochs: int, precision: str):
    """`TridentWSIDataset` as it is called by default, our collate and `fit`."""
    dataset = ours(root, keys)
    train, val = _loaders(dataset, len(dataset) * 3 // 4, collate_fn)
    torch.manual_seed(0)
    model = ABMIL(768)
    clock = Clock()
    history = fit(model, train, val, epochs=1 + epochs, device="cpu", progress=False, precision=precision, logger=clock)
    return epochs * len(dataset) / (clock.times[-1] - clock.times[0]), history.val_loss[-1], _peak()


class Clock:
    """A logger that notes when each epoch ends; the first, in which files are read, does not count in either way."""

    def __init__(self):
        self.times = []

    def log(self, values: dict) -> None:
        self.times.append(time.perf_counter())


def products(root: Path, epochs: int):
    """The matrix products of the same epochs alone, PyTorch's threads as they are: no step can be faster."""
    dataset = ours(root, ["X", "Y"])
    bags = [dataset[i]["X"] for i in range(len(dataset))]
    V, hidden = torch.randn(128, 768), [torch.randn(len(X), 128) for X in bags]

    def epoch() -> None:
        for i, (X, h) in enumerate(zip(bags, hidden, strict=True)):
            torch.mm(X, V.t(), out=h)
            if i < len(bags) * 3 // 4:
                h.t() @ X

    epoch()
    return epochs * len(bags) / seconds(lambda: [epoch() for _ in range(epochs)]), 0.0, _peak()


def training(root: Path, epochs: int, rounds: int = 3) -> None:
    """Each way in a process of its own, in turn, `rounds` times; the best round of each counts."""
    for keys, what in ((["X", "Y"], "X, Y"), (DEFAULT_KEYS, "all keys")):
        results = {"theirs": [], "float32": [], "auto": [], "products": []}
        for _ in range(rounds):
            results["products"].append(in_process(products, root, epochs))
            results["theirs"].append(in_process(train_theirs, root, keys, epochs))
            for precision in ("float32", "auto"):
                results[precision].append(in_process(train_ours, root, keys, epochs, precision))
        slow, loss, memory = max(results["theirs"])
        for precision in ("float32", "auto"):
            fast, our_loss, our_memory = max(results[precision])
            pairs = zip(results[precision], results["theirs"], strict=True)
            ratios = ", ".join(f"{ours[0] / other[0]:.2f}" for ours, other in pairs)
            note = (
                f"rounds {ratios}; last validation loss {our_loss:.5f} and {loss:.5f};"
                f" peak memory with mapped pages {our_memory:.1f} and {memory:.1f} GB"
            )
            report(f"training and validation, {what}, {precision}", fast, slow, note=note)
            assert precision != "float32" or abs(loss - our_loss) < 1e-5, "the losses differ"
        alone = max(results["products"])[0]
        share = max(results["float32"])[0] / alone
        print(
            f"  matrix products alone {alone:.1f} bags/s: ours in float32 runs at {share:.2f} of their speed",
            flush=True,
        )


def one_epoch(root: Path, bags: int) -> tuple[int, float, float]:
    """Patches, seconds of an epoch with validation, and the largest memory that no file stands behind (GB, Linux)."""
    dataset = ours(root, ["X", "Y"], packed=True).subset(range(bags))
    patches = sum(len(bag["X"]) for bag in dataset)  # reads every page once, so that the disk is not what is measured
    train, val = _loaders(dataset, bags * 3 // 4, collate_fn)
    model = ABMIL(768)
    memory = OwnMemory()
    memory.start()
    took = seconds(lambda: fit(model, train, val, epochs=1, device="cpu", progress=False))
    return patches, took, memory.peak


def scale(root: Path, bags: int) -> None:
    """Does the time of an epoch grow with the patches, and the memory not?"""
    for part in (bags // 8, bags // 4, bags // 2, bags):
        patches, took, memory = in_process(one_epoch, root, part)
        print(
            f"{part:4} bags, {patches / 1e6:.2f} million patches, {patches * 768 * 4 / 1e9:.1f} GB:"
            f" one epoch {took:6.1f} s, {took / patches * 1e6:.1f} s a million patches, own memory {memory:.2f} GB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--bags", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", choices=["opening", "reading", "adjacency", "training", "scale"])
    parser.add_argument("--large", type=int, default=398, help="bags of the tree of `scale`, 7.4 GB by default")
    parser.add_argument("--clean", action="store_true", help="remove what was made, at the end")
    args = parser.parse_args()
    root = args.folder / f"bags_{args.bags}"
    large = args.folder / f"bags_{args.large}"
    if args.only != "scale":
        make_tree(root, args.bags)
    warnings.simplefilter("ignore")
    parts = {
        "opening": lambda: opening(root),
        "reading": lambda: reading(root),
        "adjacency": lambda: adjacency(root),
        "training": lambda: training(root, args.epochs),
        "scale": lambda: scale(large, args.large),
    }
    if args.only == "scale":
        make_tree(large, args.large)
    for name, part in parts.items():
        if args.only == name or (args.only is None and name != "scale"):
            part()
    if args.clean:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
