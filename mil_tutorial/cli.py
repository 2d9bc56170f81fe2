"""The command `mil-tutorial`: each step of the course from the command line."""

from __future__ import annotations

import argparse
import html
import json
import os
import sys
from pathlib import Path

from mil_tutorial import __version__
from mil_tutorial.files import DataError, check_writable, read_json, write_json, written_whole
from mil_tutorial.repeat import MODELS


def _options(args) -> dict:
    """What was asked for, for the record."""
    return {k: v for k, v in vars(args).items() if k not in ("function", "command")}


def _course(args) -> int:
    from mil_tutorial.course import run_course, table
    from mil_tutorial.data import VARIABLE

    if args.data:
        os.environ[VARIABLE] = str(Path(args.data).expanduser().resolve())
    runs = run_course(args.out, args.only)
    print(table(runs))
    print(f"\nThe executed notebooks lie in {runs[0].copy.parent}")
    return int(any(r.error for r in runs))


def _fixture(args) -> int:
    from mil_tutorial.fixture import fixture_root, tree

    if args.build:
        tree.build(workers=args.workers)
        return 0
    root = Path(args.out).resolve() if args.out else fixture_root()
    names = args.slides or tree.ROSTER
    for name in names:
        try:
            tree.plan_slide(name)
        except ValueError as error:
            raise DataError(str(error)) from error
    if args.all or args.slides:
        tree.render_slides(root, names, args.workers)
        print(f"{len(names)} synthetic slides with masks lie in {root}")
    if args.verify:
        differences = tree.verify(root, names, args.workers)
        print(
            f"{len(differences)} slides: coordinates and labels equal the shipped ones, features differ by at most {max(differences.values()):.4f}"
        )
    if not (args.all or args.slides or args.verify):
        tree.copy_shipped(root)
        print(
            f"The fixture's data root is {root}\n{len(tree.ROSTER)} synthetic slides, drawn on demand; --all draws them now."
        )
    return 0


def _prepare(args) -> int:
    from mil_tutorial.prepare import PrepareOptions, find_slides, prepare
    from mil_tutorial.record import Record
    from mil_tutorial.trident import run_folder

    options = PrepareOptions(
        mag=args.mag, patch_size=args.patch_size, overlap=args.overlap, patch_encoder=args.patch_encoder,
        min_tissue_proportion=args.min_tissue_proportion, mpp=args.mpp, dtype=args.dtype,
    )  # fmt: skip
    run = run_folder(args.job_dir, args.mag, args.patch_size, args.overlap)
    with Record(run, "prepare", _options(args), find_slides(args.wsi_dir)):
        counts = prepare(args.wsi_dir, args.job_dir, options, scheduler=args.scheduler)
    print(f"{len(counts)} slides, {sum(counts.values())} patches; TRIDENT's layout in {Path(args.job_dir).resolve()}")
    return 0


def _labels(args) -> int:
    from mil_tutorial.labels import label_folder
    from mil_tutorial.record import Record

    if args.patch_level != 0:
        raise DataError(
            f"--patch_level {args.patch_level}: coordinates are level-0 pixels, so masks are counted at level 0. Leave the option out."
        )
    partly = args.partly_annotated or []
    if "camelyon16" in partly:
        from mil_tutorial.camelyon16 import partly_annotated

        partly = partly_annotated() | set(partly)
    sources = sorted(
        Path(args.masks_dir or args.annotations_dir or ".").glob("*_mask.tif" if args.masks_dir else "*.xml")
    )
    with Record(args.save_dir, "labels", _options(args), [args.csv_path, *sources]):
        done = label_folder(
            args.csv_path, args.masks_dir, args.coords_dir, args.save_dir, args.patch_size, args.tumor_value, args.threshold,
            args.halve, annotations_dir=args.annotations_dir, partly_annotated=partly, scheduler=args.scheduler,
        )  # fmt: skip
    tumor = sum(int((labels.label == 1).sum()) for labels in done.values())
    print(f"{len(done)} slides labelled now, {tumor} tumour patches; files in {Path(args.save_dir).resolve()}")
    return 0


def _camelyon16(args) -> int:
    from mil_tutorial.camelyon16 import write_tables

    for path in write_tables(args.root, args.test):
        print(path)
    return 0


def _check(args) -> int:
    from mil_tutorial.check import check_root, format_report

    report = check_root(args.root, args.encoder, workers=os.cpu_count() or 1)
    print(json.dumps(report.as_dict(), indent=1) if args.json else format_report(report))
    return int(report.spoiled)


def _pack(args) -> int:
    from mil_tutorial.packed import pack
    from mil_tutorial.record import Record

    data, encoder = _encoder_and_data(args)
    with Record(data.trident_dir, "pack", _options(args)):
        store = pack(data.trident_dir, encoder)
    print(f"{len(store.slides)} slides, {len(store.features)} patches of {store.dim} features in {store.folder}")
    return 0


def _encoder_and_data(args):
    from mil_tutorial.data import open_data

    data = open_data(args.data)
    encoder = args.encoder or (data.encoders or [None])[0]
    if encoder is None:
        raise DataError(
            f"{data.trident_dir}: no folder features_<encoder>. Run TRIDENT or `mil-tutorial prepare` first."
        )
    return data, encoder


def _dataset(data, encoder, which, keys=("X", "Y")):
    from mil_tutorial.bags import TridentWSIDataset

    names = data.split(which)["wsi_name"].tolist()
    return TridentWSIDataset(data.trident_dir, data.root / "wsi_labels.csv", encoder, wsi_names=names, bag_keys=keys)


def _check_dim(dataset, state, path) -> None:
    dim = dataset[0]["X"].shape[1]
    if dim != state["in_dim"]:
        raise DataError(
            f"{path}: was trained on {state['in_dim']} features, {dataset.features_path} has {dim}. Train again."
        )


def _train(args) -> int:
    import torch
    from sklearn.model_selection import train_test_split

    from mil_tutorial.abmil import ABMIL
    from mil_tutorial.collate import one_by_one
    from mil_tutorial.evaluation import choose_threshold
    from mil_tutorial.record import Record
    from mil_tutorial.training import fit, positive_weight, predict

    if args.epochs < 1 or not 0 < args.lr < 10 or args.seed < 0:
        raise DataError("expected --epochs of at least 1, --lr above 0 and --seed of at least 0.")
    if args.resume and not args.checkpoint:
        raise DataError("--resume goes on from a folder: name it with --checkpoint.")
    check_writable(args.out)  # before training, not after
    data, encoder = _encoder_and_data(args)
    dataset = _dataset(data, encoder, "train")
    labels = dataset.get_bag_labels()
    try:
        train, val = train_test_split(range(len(dataset)), test_size=0.2, random_state=args.seed, stratify=labels)
    except ValueError as error:
        raise DataError(
            f"{data.root / 'train.csv'}: cannot be split 80/20 with both classes on both sides ({error}). Add slides."
        ) from error
    record = Record(
        Path(args.out).parent, f"train-{Path(args.out).stem}", _options(args), data.inputs(encoder, "train")
    )
    if args.checkpoint:
        _refuse_other_inputs(Path(args.checkpoint), record, args.resume)
    dim = dataset[0]["X"].shape[1]
    torch.manual_seed(args.seed)
    model = ABMIL(dim, gated=args.gated)
    val_loader = one_by_one(dataset.subset(val))
    history = fit(
        model,
        one_by_one(dataset.subset(train), args.seed),
        val_loader,
        epochs=args.epochs,
        lr=args.lr,
        patience=args.patience,
        seed=args.seed,
        precision=args.precision,
        accumulate=args.accumulate,
        schedule=args.schedule,
        pos_weight=positive_weight([labels[i] for i in train]) if args.balance else None,
        checkpoint=args.checkpoint,
        resume=args.resume,
    )
    validation = predict(model, val_loader)
    threshold = choose_threshold(validation.Y, validation.prob)
    state = {
        "model": model.cpu().state_dict(),
        "in_dim": dim,
        "gated": args.gated,
        "encoder": encoder,
        "threshold": threshold,
        "seed": args.seed,
    }
    record.refuse_changes()  # before there is a checkpoint
    with written_whole(args.out) as temporary:
        torch.save(state, temporary)
    record.write([args.out])
    print(f"best epoch {history.best_epoch + 1} of {len(history.val_loss)}, validation loss {history.val_loss[history.best_epoch]:.3f},"
          f" threshold {threshold:.3f}; checkpoint {Path(args.out).resolve()}")  # fmt: skip
    return 0


def _refuse_other_inputs(folder: Path, record, resume: bool) -> None:
    """What is taken up again must be training on the same files."""
    path, last, now = folder / "inputs.json", folder / "last.pt", record.inputs
    if not resume:
        last.unlink(missing_ok=True)  # before the new list: weights of other inputs must never lie beside it
    elif last.exists():
        try:
            before = read_json(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: is damaged ({error!s:.80}). Delete {folder} and train again.") from error
        changed = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
        if changed:
            raise DataError(
                f"{folder}: {changed[0]} has changed since this training began. Train again without --resume, or in another folder."
            )
    write_json(path, now)


def _load_checkpoint(path):
    from mil_tutorial.abmil import ABMIL
    from mil_tutorial.training import load_tensors

    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such checkpoint. Make one with `mil-tutorial train`.")
    try:
        state = load_tensors(path)
        model = ABMIL(state["in_dim"], gated=state["gated"])
        model.load_state_dict(state["model"])
        state["threshold"], state["encoder"] = float(state["threshold"]), str(state["encoder"])
    except PermissionError as error:
        raise DataError(f"{path}: you may not read this file. Ask for the right to.") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(
            f"{path}: is no checkpoint of `mil-tutorial train` ({str(error)[:160]}). Train again."
        ) from error
    return model, state


def _evaluate(args) -> int:
    from mil_tutorial.collate import one_by_one
    from mil_tutorial.evaluation import as_json, bag_metrics
    from mil_tutorial.record import Record
    from mil_tutorial.training import predict

    model, state = _load_checkpoint(args.checkpoint)
    args.encoder = state["encoder"]
    data, encoder = _encoder_and_data(args)
    dataset = _dataset(data, encoder, "test")
    _check_dim(dataset, state, args.checkpoint)
    if args.out:
        record = Record(args.out, "evaluate", _options(args), [args.checkpoint, *data.inputs(encoder, "test")])
    found = predict(model, one_by_one(dataset))
    metrics = bag_metrics(found.Y, found.prob, threshold=state["threshold"])
    if args.out:
        record.refuse_changes()
        _write_evaluation(Path(args.out), found, metrics, state, args.checkpoint, data)
        record.write()
    if args.json:
        print(json.dumps(as_json(metrics), indent=1))
    else:
        print(
            f"{len(found.names)} test slides, threshold {state['threshold']:.3f} chosen on validation slides; 95 % intervals over slides"
        )
        width = max(map(len, metrics))
        print("\n".join(f"{name:>{width}}  {estimate}" for name, estimate in metrics.items()))
        if args.out:
            print(f"predictions, metrics, figure and report in {Path(args.out).resolve()}")
    return 0


def _provenance(checkpoint) -> str:
    """For a report: how the checkpoint came about, as its record says it."""
    from mil_tutorial import report
    from mil_tutorial.record import changed_inputs, digest, read_record, record_path

    path = record_path(Path(checkpoint).parent, f"train-{Path(checkpoint).stem}")
    heading = "<h2>Where the checkpoint comes from</h2>"
    if not path.is_file():
        return heading + f"<p>No record {html.escape(path.name)} lies beside it.</p>"
    record = read_record(path)
    if digest(checkpoint) not in record.get("results", {}).values():
        return heading + f"<p>The record {html.escape(path.name)} beside it is of another checkpoint.</p>"
    changed = [f"{name} {how}" for name, how in changed_inputs(record)]
    options = ", ".join(f"{k} {v}" for k, v in record["options"].items() if v not in (None, False))
    rows = [("record", path.resolve()), ("made", record["ended"]), ("options", options), ("inputs", len(record["inputs"])),
            ("changed since", changed[0] + (f" and {len(changed) - 1} more" if changed[1:] else "") if changed else "none"),
            *((f"version of {name}", version) for name, version in record["versions"].items())]  # fmt: skip
    return heading + report.table(("what", "value"), rows)


def _repeat(args) -> int:
    from mil_tutorial.record import Record
    from mil_tutorial.repeat import repeat

    data, encoder = _encoder_and_data(args)
    root = None if data.synthetic and not args.data else str(data.root)
    with Record(args.out, "repeat", _options(args), data.inputs(encoder, "train")):
        table = repeat(
            root, encoder, args.out, args.models, args.folds, args.seeds, args.epochs, args.lr, args.scheduler
        )
    print(
        f"AUC of {args.folds} folds' slides together, mean and deviation over {len(args.seeds)} seeds; test slides were not touched"
    )
    print(table.to_string(index=False, float_format="%.3f"))
    return 0


def _write_evaluation(out: Path, found, metrics, state, checkpoint, data) -> None:
    """predictions.csv, metrics.json, figure.png and report.html."""
    import matplotlib
    import pandas as pd

    matplotlib.use("Agg")
    from mil_tutorial import report
    from mil_tutorial.evaluation import as_json, metrics_by_group

    called = found.prob > state["threshold"]
    table = pd.DataFrame(
        {"wsi_name": found.names, "wsi_label": found.Y, "probability": found.prob, "called": called.astype(int)}
    )
    with written_whole(out / "predictions.csv") as temporary:
        table.to_csv(temporary, index=False)
    with written_whole(out / "metrics.json") as temporary:
        text = json.dumps({"threshold": state["threshold"], "metrics": as_json(metrics)}, indent=1)
        temporary.write_text(text, encoding="utf-8")
    image = report.png(report.evaluation_figure(found.Y, found.prob, state["threshold"]))
    with written_whole(out / "figure.png") as temporary:
        temporary.write_bytes(image)
    source = "synthetic slides" if data.synthetic else str(data.root)
    parts = [
        report.table(("what", "value"), [("data", source), ("checkpoint", Path(checkpoint).resolve()), ("encoder", state["encoder"]),
                     ("test slides", len(found.names)), ("with tumour", int(found.Y.sum())),
                     ("threshold, from validation slides", f"{state['threshold']:.3f}")]),
        report.metrics_table(metrics), report.picture(image, "ROC curve, reliability and every slide's probability"),
    ]  # fmt: skip
    if data.reference is not None:
        known = data.reference.set_index("wsi_name")["lesion_size"].to_dict()
        groups = ["" if y == 0 else str(known.get(n, "unknown")) for n, y in zip(found.names, found.Y, strict=True)]
        by_size = metrics_by_group(found.Y, found.prob, groups, state["threshold"])
        rows = [(size, m["sensitivity"], m["auc"]) for size, m in by_size.items()]
        parts.append(
            "<h2>By lesion size</h2>" + report.table(("size", "sensitivity", "AUC against all normal slides"), rows)
        )
    wrong = table[table["called"] != table["wsi_label"]]
    rows = [(r.wsi_name, "tumour" if r.wsi_label else "normal", f"{r.probability:.3f}") for r in wrong.itertuples()]
    parts.append(f"<h2>Called wrongly: {len(rows)}</h2>" + report.table(("slide", "is", "said probability"), rows))
    parts.append(_provenance(checkpoint))
    report.write_page(out / "report.html", "Evaluation on the test slides", parts)


def _localize(args) -> int:
    import torch

    from mil_tutorial import report
    from mil_tutorial.localization import find_detections, write_detections, write_geojson
    from mil_tutorial.pictures import draw_scores, encode_jpeg
    from mil_tutorial.viewer import view_heatmap

    model, state = _load_checkpoint(args.checkpoint)
    args.encoder = state["encoder"]
    data, encoder = _encoder_and_data(args)
    dataset = _dataset(data, encoder, "test")
    _check_dim(dataset, state, args.checkpoint)
    names = args.slides or dataset.get_bag_names()
    unknown = [n for n in names if n not in dataset.get_bag_names()]
    if unknown:
        raise DataError(f"{data.root / 'test.csv'}: no test slide {unknown[0]}. Choose one of its names.")
    import numpy as np
    import pandas as pd
    from tqdm.auto import tqdm

    from mil_tutorial.evaluation import patch_metrics
    from mil_tutorial.faithfulness import patch_scores
    from mil_tutorial.froc import froc, lesions_from_mask
    from mil_tutorial.labels import read_patch_labels
    from mil_tutorial.record import Record

    out = Path(args.out)
    record = Record(out, "localize", _options(args), [args.checkpoint, *data.inputs(encoder, "test")])
    rows, found, lesions, drawable = [], {}, {}, {}
    bags = dict(zip(dataset.get_bag_names(), range(len(dataset)), strict=True))
    for name in tqdm(names, desc="Localizing", unit="slide"):
        bag = dataset[bags[name]]
        with torch.inference_mode():
            probability = float(torch.sigmoid(model.eval()(bag["X"][None]))[0])
        scores = patch_scores(model, bag["X"])
        share = scores["attention x n"]
        patches = dataset.read_patches(name)
        drawable[name] = patches, share
        side = patches.geometry.patch_size_level0
        found[name] = find_detections(share * probability / len(share), patches.coords, side)
        write_detections(out / "detections" / f"{name}.csv", found[name])
        shown = {k: scores[k] for k in ("attention x n", "logit contribution", "raw attention")}
        labels_file = dataset.patch_labels_path / f"{name}.h5"
        labels = read_patch_labels(labels_file, len(share)) if labels_file.exists() else None
        regions = ("attention x n", args.region_threshold)
        write_geojson(out / "geojson" / f"{name}.geojson", patches.coords, side, shown, labels, regions=regions)
        row = {"wsi_name": name, "probability": probability, "patches": len(share), "largest share": share.max()}
        rows.append(row | (patch_metrics(labels, share) if labels is not None else {}))
        if args.html:
            view_heatmap(data.slide_path(name), patches.coords, side, shown, labels,
                         title=f"{name}: tumour probability {probability:.2f}", html=out / "html" / f"{name}.html")  # fmt: skip
        if args.froc:
            lesions[name] = lesions_from_mask(data.mask_path(name), args.tumor_value) if bag["Y"] else None
    record.refuse_changes()
    table = pd.DataFrame(rows)
    with written_whole(out / "localization.csv") as temporary:
        table.to_csv(temporary, index=False)
    parts = [report.table(table.columns, table.map(lambda v: f"{v:.3f}" if isinstance(v, float) else v).to_numpy())]
    if args.froc:
        try:
            curve = froc(found, lesions, n_bootstrap=500)
        except ValueError as error:
            raise DataError(f"{data.root}: no FROC: {error} The other files are written.") from error
        text = f"FROC score {curve.score:.3f}, 95 % interval over slides {curve.low:.3f} to {curve.high:.3f}"
        print(text)
        parts.insert(0, f"<p>{text}</p>")
        result = {"score": curve.score, "low": curve.low, "high": curve.high,
                  "fp_per_slide": curve.fp_per_slide.tolist(), "sensitivity": curve.sensitivity.tolist()}  # fmt: skip
        with written_whole(out / "froc.json") as temporary:
            temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if args.html:
        top = max(float(np.max(table["largest share"])), 2.0)
        for name in names[: args.pictures]:
            patches, share = drawable[name]
            side = patches.geometry.patch_size_level0
            drawn = draw_scores(data.slide_path(name), patches.coords, side, share, 0, top)
            caption = f"{name}: attention x n, one scale for all slides, 0 (violet) to {top:.0f} (yellow)"
            parts.append(report.picture(encode_jpeg(drawn), caption, "jpeg"))
    parts.append(_provenance(args.checkpoint))
    report.write_page(out / "report.html", "Localization on the test slides", parts)
    record.write()
    print(
        f"{len(names)} slides: detections (CSV), patches and regions for QuPath (GeoJSON), report"
        f"{', viewers (HTML)' if args.html else ''} in {out.resolve()}"
    )
    return 0


SCHEDULER = "address or scheduler file of a Dask cluster; without it the work is done here"


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default only where there is one."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="mil-tutorial", description="Multiple Instance Learning for whole-slide images: the course's steps."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, function, text):
        sub = commands.add_parser(name, help=text, description=text, formatter_class=_Help)
        sub.set_defaults(function=function)
        return sub

    p = command("course", _course, "Execute the six notebooks and print what came out.")
    p.add_argument("--data", help="your own data root instead of the synthetic slides")
    p.add_argument("--out", default="build/notebooks", help="folder of the executed copies")
    p.add_argument("--only", help="only notebooks whose name begins so, such as 03")

    p = command("fixture", _fixture, "Draw the synthetic slides; without options, say where they lie.")
    p.add_argument("slides", nargs="*", help="names of slides to draw, such as tumor_001")
    p.add_argument("--all", action="store_true", help="draw all slides of the course")
    p.add_argument("--verify", action="store_true", help="show that the shipped features come out of the slides again")
    p.add_argument("--out", help="data root to draw into; by default the course's own, in the cache folder")
    p.add_argument("--workers", type=int, help="processes; by default one for each core")
    p.add_argument("--build", action="store_true", help="maintainers: make the shipped files anew")

    p = command("prepare", _prepare, "From slides to features in TRIDENT's layout, on a CPU.")
    p.add_argument("--wsi_dir", required=True, help="folder of slides")
    p.add_argument("--job_dir", required=True, help="TRIDENT job folder to write")
    p.add_argument("--mag", type=float, default=20, help="magnification of the patches")
    p.add_argument("--patch_size", type=int, default=512, help="side of a patch in pixels at --mag")
    p.add_argument("--overlap", type=int, default=0, help="pixels that neighbours share at --mag")
    p.add_argument("--patch_encoder", default="efficientnet_lite0", help="efficientnet_lite0, or timm:<model>")
    p.add_argument("--segmenter", choices=["otsu"], default="otsu", help="how tissue is found")
    p.add_argument(
        "--min_tissue_proportion", type=float, default=0.0, help="least share of tissue; 0 keeps what touches tissue"
    )
    p.add_argument("--mpp", type=float, help="µm per pixel at level 0, for slides that do not say it")
    p.add_argument("--dtype", choices=["float16", "float32"], default="float32", help="type of the features")

    p.add_argument("--scheduler", help=SCHEDULER)

    p = command("labels", _labels, "Patch labels from tumour masks.")
    p.add_argument("--csv_path", required=True, help="CSV with columns wsi_name, wsi_label")
    p.add_argument("--masks_dir", help="folder of <slide>_mask.tif; this or --annotations_dir")
    p.add_argument("--annotations_dir", help="folder of <slide>.xml from ASAP, in place of masks")
    p.add_argument("--coords_dir", required=True, help="folder of <slide>_patches.h5")
    p.add_argument("--save_dir", required=True, help="folder to write <slide>.h5 to")
    p.add_argument(
        "--patch_size", type=int, help="side of a patch in level-0 pixels; by default the coordinate file says it"
    )
    p.add_argument(
        "--patch_level", type=int, default=0, help="level that the coordinates refer to; TRIDENT's refer to 0"
    )
    p.add_argument("--tumor_value", type=int, default=2, help="the masks' value for tumour")
    p.add_argument("--partly_annotated", nargs="+", metavar="SLIDE", help="slides whose lesions are not all outlined: patches outside"
                   " are unknown, -1; `camelyon16` names those of the real CAMELYON16")  # fmt: skip
    p.add_argument("--threshold", type=float, default=0.5, help="a patch is tumour above this share")
    p.add_argument("--halve", action=argparse.BooleanOptionalAction, default=True,
                   help="on a tumour slide, halve the threshold until some patch is tumour, as the original tutorial does")  # fmt: skip

    p.add_argument("--scheduler", help=SCHEDULER)

    p = command(
        "camelyon16",
        _camelyon16,
        "Write wsi_labels.csv, train.csv and test.csv of the real CAMELYON16 into a data root.",
    )
    p.add_argument("root", help="data root with the folders images and masks")
    p.add_argument("--test", choices=["official", "tutorial"], default="official",
                   help="129 test slides, or the 128 of the torchmil tutorial")  # fmt: skip

    p = command(
        "check", _check, "Say what is missing in a data root or does not fit. Exit code 1 if it would spoil training."
    )
    p.add_argument("root", nargs="?", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    p.add_argument("--encoder", help="whose features to check; all by default")
    p.add_argument("--json", action="store_true", help="for programs")

    p = command(
        "pack", _pack, "Pack a feature folder into one memory-mapped store, from which bags are read many times faster."
    )
    p.add_argument("--data", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    p.add_argument("--encoder", help="whose features to pack; the first found by default")

    p = command("train", _train, "Train ABMIL on the training slides.")
    p.add_argument("--data", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    p.add_argument("--encoder", help="whose features to use")
    p.add_argument("--epochs", type=int, default=20)
    p.add_argument("--lr", type=float, default=2e-4, help="learning rate")
    p.add_argument("--patience", type=int, help="stop after this many epochs without improvement")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--gated", action="store_true", help="gated attention")
    p.add_argument("--balance", action="store_true", help="weigh tumour bags so that both classes count the same")
    p.add_argument("--accumulate", type=int, default=1, help="bags whose gradients are averaged for one step")
    p.add_argument("--schedule", choices=["cosine"], help="let the learning rate fall over the epochs")
    p.add_argument("--precision", choices=["float32", "bfloat16", "auto"], default="float32",
                   help="auto computes in 16 bits where the device gains from it")  # fmt: skip
    p.add_argument("--checkpoint", help="folder for last.pt and best.pt, written after each epoch")
    p.add_argument("--resume", action="store_true", help="go on from the last.pt of --checkpoint")
    p.add_argument("--out", default="build/abmil.pt", help="checkpoint to write")

    p = command(
        "repeat",
        _repeat,
        "Train folds x seeds x models on the training slides and compare them; test slides are not touched.",
    )
    p.add_argument("--data", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    p.add_argument("--encoder", help="whose features to use")
    p.add_argument("--models", nargs="+", default=list(MODELS), help="which models: " + ", ".join(MODELS))
    p.add_argument("--folds", type=int, default=5)
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--epochs", type=int, default=20)
    p.add_argument("--lr", type=float, default=5e-4, help="learning rate")
    p.add_argument("--out", default="build/repeat", help="folder of the results; what is there already stays")
    p.add_argument("--scheduler", help=SCHEDULER)

    p = command("evaluate", _evaluate, "Score a checkpoint on the test slides.")
    p.add_argument("--checkpoint", default="build/abmil.pt")
    p.add_argument("--data", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    p.add_argument("--json", action="store_true", help="for programs")

    p.add_argument("--out", help="folder for predictions (CSV), metrics (JSON), a figure and one HTML report")

    p = command("localize", _localize, "Write detections, GeoJSON for QuPath and viewers of test slides.")
    p.add_argument("slides", nargs="*", help="test slides; all by default")
    p.add_argument("--checkpoint", default="build/abmil.pt")
    p.add_argument("--data", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    p.add_argument("--out", default="build/localization", help="folder to write to")
    p.add_argument(
        "--html", action="store_true", help="also write a viewer page for each slide, and pictures in the report"
    )
    p.add_argument("--pictures", type=int, default=20, help="slides that are drawn in the report")
    p.add_argument(
        "--region_threshold",
        type=float,
        default=3.0,
        help="patches with more than this many fair shares of attention form regions",
    )
    p.add_argument("--froc", action="store_true", help="score the detections against the masks, as CAMELYON16 does")
    p.add_argument("--tumor_value", type=int, default=2, help="the masks' value for tumour, for --froc")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit code 0: done; 1: done, with bad news; 2: something to correct, said in one message."""
    args = build_parser().parse_args(argv)
    try:
        return args.function(args)
    except DataError as error:
        print(f"mil-tutorial {args.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # rights, a full disk, a share that is gone: nothing that a traceback would explain
        print(
            f"mil-tutorial {args.command}: {error.filename or 'a file'}: {error.strerror or error}."
            " Check the disk and your rights, then run it again; what is written is whole.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("\nstopped; what is written is whole, run the same command again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
