"""ABMIL on CAMELYON16's official split, beside what others have published: python benchmarks/camelyon16.py --data ROOT

Trains with the recipe of `mil-tutorial train` and notebooks 4 to 6, from five seeds. A fifth of the training slides
chooses the epoch and the threshold; the test slides choose nothing. Prints AUC, accuracy, F1 and FROC with 95 %
intervals, then the rows of published.csv, and what makes them incomparable: missing test slides, other features.

    mil-tutorial get camelyon16 real --all && python benchmarks/camelyon16.py --data real
    python benchmarks/camelyon16.py --made-up 398      # features of noise in the same shape: time and memory, no result

At most 1 GB of features is kept in memory; the others are read again in each epoch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mil_tutorial import (
    ABMIL,
    bag_metrics,
    camelyon16_slides,
    choose_threshold,
    fit,
    froc,
    lesions_from_mask,
    localize_slide,
    make_loader,
    open_data,
    predict,
    split_bags,
    summarize_seeds,
)
from mil_tutorial.data import DataRoot
from mil_tutorial.errors import DataError
from mil_tutorial.evaluation.metrics import Estimate
from mil_tutorial.localization.lesions import Lesions
from mil_tutorial.training.recipe import BATCH_SIZE, EPOCHS

PUBLISHED = Path(__file__).with_name("published.csv")
NOT_PUBLISHED = {"normal_027"}  # AEM's features lack it, those of the published rows, too
METRICS = ("auc", "accuracy", "f1", "froc")


@dataclass
class Run:
    """One seed: its test metrics by name, and the epoch that validation chose."""

    metrics: dict[str, Estimate]
    best_epoch: int


def train(data: DataRoot, encoder: str, seed: int, epochs: int) -> tuple[ABMIL, float, int]:
    """The model of a seed, its threshold, its best epoch. Four bags make a step, as in the recipe, read one by one."""
    bags = data.bags("train", encoder=encoder)
    train_set, val_set = split_bags(bags, seed=seed)
    torch.manual_seed(seed)
    model = ABMIL(bags[0]["X"].shape[1])
    val_loader = make_loader(val_set, 1)
    history = fit(
        model, make_loader(train_set, 1, seed=seed), val_loader, epochs=epochs, accumulate=BATCH_SIZE, seed=seed
    )
    validation = predict(model, val_loader)
    return model, choose_threshold(validation.Y, validation.prob), history.best_epoch


def score(
    data: DataRoot, encoder: str, model: ABMIL, threshold: float, lesions: dict[str, Lesions | None] | None
) -> dict[str, Estimate]:
    """Metrics on the test slides; FROC where lesions are known."""
    bags = data.bags("test", encoder=encoder)
    names, probability, detections = bags.get_bag_names(), [], {}
    for i, name in enumerate(tqdm(names, desc="Scoring", unit="slide", leave=False)):
        found = localize_slide(model.cpu(), bags[i]["X"], bags.read_patches(name))
        probability.append(found.probability)
        detections[name] = found.detections
    metrics = dict(bag_metrics(bags.get_bag_labels(), np.array(probability), threshold=threshold))
    if lesions is not None:
        curve = froc(detections, lesions, n_bootstrap=1000)
        metrics["froc"] = Estimate(curve.score, curve.low, curve.high)
    return {name: metrics[name] for name in METRICS if name in metrics}


def lesions_of(data: DataRoot, encoder: str) -> dict[str, Lesions | None] | None:
    """Lesions of each test slide; None, and a word, where a mask is not there and cannot be fetched."""
    bags = data.bags("test", encoder=encoder)
    lesions: dict[str, Lesions | None] = {}
    pairs = list(zip(bags.get_bag_names(), bags.get_bag_labels(), strict=True))
    for name, label in tqdm(pairs, desc="Lesions", unit="slide", leave=False):
        geometry = bags.read_patches(name).geometry
        try:
            path = data.mask_path(name) if label else None
        except DataError as error:
            print(f"no FROC: {error}")
            return None
        lesions[name] = lesions_from_mask(path, size=(geometry.width, geometry.height)) if path else None
    return lesions


def cautions(data: DataRoot, encoder: str, epochs: int, made_up: bool) -> list[str]:
    """What makes these numbers incomparable with published ones, in sentences."""
    known, notes = camelyon16_slides(), []
    if made_up:
        notes.append("These features are noise with a weak signal. The numbers say nothing about any model.")
    for split, what in (("test", "test"), ("train", "training")):
        official, have = set(known.loc[known["split"] == split, "wsi_name"]), set(data.split(split)["wsi_name"])
        if missing := sorted(official - have - (NOT_PUBLISHED if split == "train" else set())):
            effect = "the published rows rest on all" if split == "test" else "the model has learnt from less"
            some = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
            notes.append(f"{len(missing)} of {len(official)} {what} slides are missing ({some}): {effect}.")
        if more := sorted(have - official):
            notes.append(f"{len(more)} {what} slides are not CAMELYON16's ({more[0]} …).")
    if encoder not in set(pd.read_csv(PUBLISHED)["features"]):
        notes.append(f"No published row has the features {encoder}.")
    if epochs != EPOCHS:
        notes.append(f"{epochs} epochs were trained; the recipe has {EPOCHS}.")
    return notes


def table(runs: list[Run], encoder: str) -> str:
    """Our numbers, then the published ones."""
    lines = [f"{'metric':<10}{'mean':>7}{'deviation':>11}   95 % interval (mean of the seeds' own)   each seed"]
    for name in (m for m in METRICS if m in runs[0].metrics):
        s = summarize_seeds([run.metrics[name] for run in runs])
        each = " ".join(f"{v:.3f}" for v in s.values)
        lines.append(
            f"{name:<10}{s.mean:7.3f}{s.spread:11.3f}   {s.sampling[0]:.3f} to {s.sampling[1]:.3f}{'':26}{each}"
        )
    lines += ["", "published"]
    rows = pd.read_csv(PUBLISHED, dtype=str, keep_default_na=False)
    wide = rows["features"].str.len().max() + 2
    lines.append(f"  {'features':<{wide}}{'model':<16}{'AUC':<13}{'accuracy':<10}{'F1':<8}source")
    for row in rows.itertuples(index=False):
        mark = "*" if row.features == encoder else " "
        more = f"; {row.other}" if row.other else ""
        less = f"; {row.slides} test slides" if row.slides != "129" else ""
        start = f"{mark} {row.features:<{wide}}{row.model:<16}{row.auc:<13}{row.accuracy:<10}{row.f1:<8}"
        lines.append(f"{start}{row.source} ({row.seen}{more}{less})")
    return "\n".join([*lines, f"* the same features, {encoder}: the row to compare with"])


def most() -> int:
    """Most memory that this process has had, in bytes; 0 on Windows."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def made_up_root(root: Path, slides: int, patches: int) -> DataRoot:
    """A data root with the official names and splits, and noise for features, float16 as AEM's; test masks, too."""
    from fetched import DIM, MPP, SIDE, corners_of, write_mask

    from mil_tutorial.geometry import Geometry
    from mil_tutorial.sources.choice import choose_slides
    from mil_tutorial.sources.fetch import write_tables
    from mil_tutorial.trident import Patches, PatchLabels, write_features, write_patch_labels, write_patches

    known = camelyon16_slides()
    known = known[known["wsi_name"] != "normal_027"].assign(center="RUMC", scanner="3DHISTECH")
    names = choose_slides(known, slides)
    table = known[known["wsi_name"].isin(names)]
    across, rng = 160, np.random.default_rng(0)
    geometry = Geometry(256, 0, 20.0, 40.0, across * SIDE, across * SIDE, SIDE)
    run, direction = root / "trident_processed" / "20x_256px_0px_overlap", rng.standard_normal(DIM).astype(np.float32)
    noise = rng.standard_normal((patches, DIM), np.float32)
    (root / "masks").mkdir(parents=True)
    rows = list(zip(table["wsi_name"], table["wsi_label"], table["split"], strict=True))
    for name, label, split in tqdm(rows, desc="Making features", unit="slide"):
        coords = corners_of(across, patches, rng)
        left, top = rng.integers(6, across - 30, 2).tolist()
        size = int(rng.integers(2, 16)) if label else 0
        x, y = (coords / SIDE).T
        inside = (x > left - 0.5) & (x < left + size - 0.5) & (y > top - 0.5) & (y < top + size - 0.5)
        values = np.roll(noise, int(rng.integers(patches)), 0)[: len(coords)] + 0.2 * inside[:, None] * direction
        slide = Patches(name, coords, geometry)
        write_patches(run / "patches" / f"{name}_patches.h5", coords, geometry, mpp=MPP)
        write_features(run / "features_vits" / f"{name}.h5", values.astype(np.float16), slide, "vits")
        labels = PatchLabels(inside.astype(np.float32), inside.astype(np.int8), 0.5)
        write_patch_labels(run / "patch_labels" / f"{name}.h5", labels)
        if label and split == "test":
            write_mask(root / "masks" / f"{name}_mask.tif", across, (left, top, left + size, top + size))
    write_tables(root, table, names)
    return open_data(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="camelyon16", help="data root; by default the course's own, fetched on first use"
    )
    parser.add_argument("--encoder", help="whose features; the root's first by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument(
        "--made-up", type=int, metavar="N", help="so many slides with features of noise, in place of data"
    )
    parser.add_argument("--patches", type=int, default=20_000, help="of a made-up slide")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made_up = args.made_up is not None
        data = made_up_root(Path(folder) / "root", args.made_up, args.patches) if made_up else open_data(args.data)
        encoder = args.encoder or data.encoder
        at_start = most()
        start, lesions, runs = time.perf_counter(), lesions_of(data, encoder), []
        for seed in range(args.seeds):
            model, threshold, best = train(data, encoder, seed, args.epochs)
            runs.append(Run(score(data, encoder, model, threshold, lesions), best))
            print(
                f"seed {seed}: epoch {best + 1}, threshold {threshold:.3f}, test AUC {runs[-1].metrics['auc']}",
                flush=True,
            )
        counts = {split: len(data.split(split)) for split in ("train", "test")}
        print(f"\n{encoder}: {counts['train']} training and {counts['test']} test slides, ABMIL, {args.seeds} seeds")
        print(table(runs, encoder))
        for note in cautions(data, encoder, args.epochs, made_up):
            print(f"NOT COMPARABLE: {note}")
        memory = f"{at_start / 1e9:.2f} GB before training, {most() / 1e9:.2f} GB at most"
        print(f"{time.perf_counter() - start:.0f} s; memory {memory}")


if __name__ == "__main__":
    main()
