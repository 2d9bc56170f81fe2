"""The command `mil-tutorial`: each step of the course from the command line."""

from __future__ import annotations

import html
from pathlib import Path

from mil_tutorial.errors import DataError

SCHEDULER = "address or scheduler file of a Dask cluster; without it the work is done here"


def _options(args) -> dict:
    """What was asked for, for the record."""
    return {k: v for k, v in vars(args).items() if k not in ("run", "command")}


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
    from mil_tutorial.bags.dataset import TridentWSIDataset

    names = data.split(which)["wsi_name"].tolist()
    return TridentWSIDataset(data.trident_dir, data.root / "wsi_labels.csv", encoder, wsi_names=names, bag_keys=keys)


def _check_dim(dataset, state, path) -> None:
    dim = dataset[0]["X"].shape[1]
    if dim != state["in_dim"]:
        raise DataError(
            f"{path}: was trained on {state['in_dim']} features, {dataset.features_path} has {dim}. Train again."
        )


def _load_checkpoint(path):
    from mil_tutorial.models import ABMIL
    from mil_tutorial.training.checkpoint import load_tensors

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


def _provenance(checkpoint) -> str:
    """For a report: how the checkpoint came about, as its record says it."""
    from mil_tutorial.commands import report
    from mil_tutorial.commands.record import changed_inputs, read_record, record_path
    from mil_tutorial.files import digest

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
