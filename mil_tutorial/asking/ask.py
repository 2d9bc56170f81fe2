"""Ask one slide: from a slide file and checkpoints to an answer that says how far it may be trusted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from mil_tutorial.asking.answer import CONTRIBUTION, SHARE, ModelAnswer, SlideAnswer
from mil_tutorial.asking.compare import compare_slide, worst
from mil_tutorial.asking.page import draw_card
from mil_tutorial.asking.source import SlideFeatures, check_slide, find_features, make_features, prepare_options
from mil_tutorial.asking.trained import TrainedModel, load_checkpoint
from mil_tutorial.asking.write import write_answer
from mil_tutorial.devices import pick_device
from mil_tutorial.errors import DataError, Found, require
from mil_tutorial.localization.detections import find_detections
from mil_tutorial.localization.scores import detection_score, localize_slide
from mil_tutorial.remote import stem
from mil_tutorial.slides.options import Note, require_mpp, warn


def predict_slide(
    slide: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    features: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    mpp: float | None = None,
    device: str | torch.device | None = None,
    note: Callable[[Note], object] = warn,
    progress: bool = True,
) -> SlideAnswer:
    """Ask a trained model about one slide file: is there tumour, where, and is the slide like the training slides?

    It is the command `mil-tutorial predict` for one slide. (`predict` itself is the name of the function that puts
    a loader of bags through a model, as in notebook 4.)

    Args:
        slide: path or address of a slide; no table and no split is needed.
        checkpoint: a file of `mil-tutorial train`, or several, whose answers are averaged and whose spread is told.
        features: folder of features that are there already: TRIDENT's run or job folder, or `features_<encoder>`.
            Without it they are made here, as those of the training slides were; that takes a second for some patches.
        out: folder to write the report, tables and GeoJSON to, in a folder of the slide's name, and what was prepared;
            None writes nothing.
        mpp: µm per pixel at level 0, in place of what the slide says.
        device: a GPU if there is one, by default.
        note: is told what stops nothing, such as a slide that says other µm per pixel; by default a warning.
        progress: show bars.

    Returns:
        `.probability`, `.threshold`, `.tumour`, `.spread`, `.warnings`, `.scores`, `.detections`, `.comparisons`,
        `.report`, see `SlideAnswer`.

    Raises:
        ParameterError: no checkpoint, or an mpp that no objective has.
        DataError: the slide, a checkpoint or the features cannot be read or do not fit each other.
    """
    paths = [checkpoint] if isinstance(checkpoint, str | os.PathLike) else list(checkpoint)
    require(bool(paths), "checkpoint", Found("none"), "at least one file of `mil-tutorial train`")
    if mpp is not None:
        require_mpp(mpp)
    models = [load_checkpoint(path) for path in paths]
    options, path = prepare_options(models), check_slide(slide)
    notes: list[str] = []

    def tell(said: Note) -> None:
        notes.append(said.text)
        note(said)

    with ExitStack() as stack:
        job = Path(stack.enter_context(tempfile.TemporaryDirectory()) if out is None else Path(out) / "prepared")
        encoder = models[0].encoder
        if features is None:
            source = make_features(path, job, encoder, options, mpp=mpp, device=device, note=tell, progress=progress)
        else:
            source = find_features(path, features, encoder, options, mpp=mpp)
        answer = ask(source, models, [str(p) for p in paths], device=device, progress=progress)
    answer = replace(answer, notes=tuple(notes))
    answer = replace(answer, card=draw_card(answer))
    return answer if out is None else replace(answer, report=write_answer(answer, Path(out) / answer.name))


def ask(
    source: SlideFeatures,
    models: Sequence[TrainedModel],
    checkpoints: Sequence[str],
    *,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> SlideAnswer:
    """Put one slide to each model, and compare it with their training slides.

    Args:
        source: patches and features.
        models, checkpoints: the models and the names of their files.
        device, progress: as `predict_slide`.

    Raises:
        DataError: the features have another size than a model takes.
    """
    place, side = pick_device(device), source.patches.geometry.patch_size_level0
    answers, scores, comparisons = [], [], []
    pairs = list(zip(models, checkpoints, strict=True))
    for model, file in tqdm(pairs, desc="Asking", unit="model", leave=False, disable=not progress or len(pairs) == 1):
        if model.model.in_dim != source.X.shape[1]:
            raise DataError(
                f"{file}: takes {model.model.in_dim} features for each patch, those of {source.slide} have"
                f" {source.X.shape[1]}. Name features of {model.encoder}, or a checkpoint of these features."
            )
        bad = int(np.count_nonzero(~np.isfinite(source.X)))
        if bad:
            raise DataError(f"{source.slide}: {bad} of its features are NaN or infinite. Make its features again.")
        step = model.known.step if model.known else 0.0
        X = torch.from_numpy(np.round(source.X / step) * np.float32(step) if step else source.X)
        result = localize_slide(model.model.to(place).eval(), X.to(place), source.patches)
        answers.append(ModelAnswer(file, result.probability, model.threshold))
        scores.append(result.scores)
        comparisons.append(compare_slide(source, model))
    means = {key: np.mean([s[key] for s in scores], axis=0) for key in (CONTRIBUTION, SHARE)}
    probability = float(np.mean([a.probability for a in answers]))
    found = find_detections(detection_score(probability, means[SHARE]), source.patches.coords, side)
    return SlideAnswer(
        stem(source.slide),
        source.slide,
        source.patches,
        source.mpp,
        tuple(answers),
        means,
        found,
        tuple(worst(comparisons)),
        tuple(models),
    )
