"""The checkpoint file of `mil-tutorial train`: weights, threshold, and the slides that they rest on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from mil_tutorial.asking.known import KnownSlides, know_slides
from mil_tutorial.bags.dataset import TridentWSIDataset
from mil_tutorial.errors import DataError
from mil_tutorial.files import written_whole
from mil_tutorial.models import ABMIL
from mil_tutorial.training.checkpoint import load_tensors


@dataclass(frozen=True)
class TrainedModel:
    """A model with its threshold.

    Attributes:
        model: `ABMIL` with the weights of the best epoch.
        gated: whether its attention is gated.
        encoder: name of the features that it takes.
        threshold: a slide is predicted to hold tumour above it; chosen on validation slides.
        seed: of the split and of the first weights.
        slides: names of the slides that it was trained and validated on; empty if the file is older than this entry.
        known: what these slides are like; None if the file is older than this entry.
    """

    model: ABMIL
    gated: bool
    encoder: str
    threshold: float
    seed: int
    slides: tuple[str, ...] = ()
    known: KnownSlides | None = None

    @classmethod
    def of(
        cls,
        model: ABMIL,
        train: TridentWSIDataset,
        val: TridentWSIDataset,
        *,
        encoder: str,
        threshold: float,
        synthetic: bool,
        seed: int = 0,
    ) -> TrainedModel:
        """A model with what its slides are like, so that it can warn of one that is unlike them.

        Args:
            model: trained.
            train, val: the bags that it was trained and validated on.
            encoder: name of their features.
            threshold: a slide is predicted to hold tumour above it; chosen on `val`.
            synthetic: the slides were drawn by a program.
            seed: of the split and of the first weights.

        Raises:
            DataError: a file of these bags is damaged.
        """
        known = know_slides(train, val, encoder=encoder, synthetic=synthetic)
        names = (*train.get_bag_names(), *val.get_bag_names())
        return cls(model, model.att_U is not None, encoder, threshold, seed, names, known)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; it appears when it is complete."""
        state = {
            "model": self.model.cpu().state_dict(),
            "in_dim": self.model.in_dim,
            "gated": self.gated,
            "encoder": self.encoder,
            "threshold": self.threshold,
            "seed": self.seed,
            "slides": list(self.slides),
            "known": None if self.known is None else self.known.state(),
        }
        with written_whole(path) as temporary:
            torch.save(state, temporary)

    def check_features(self, bags: TridentWSIDataset, path: str | os.PathLike[str]) -> None:
        """The bags must have features of the size that the model takes.

        Raises:
            DataError: they have another one.
        """
        dim = bags[0]["X"].shape[1]
        if dim != self.model.in_dim:
            raise DataError(
                f"{path}: was trained on {self.model.in_dim} features for each patch, {bags.features_path} has {dim}."
                " Train again."
            )

    def seen(self, names: list[str]) -> list[str]:
        """Those of the slides that the model was trained or validated on."""
        return sorted(set(names) & set(self.slides))


def load_checkpoint(path: str | os.PathLike[str]) -> TrainedModel:
    """Read what `mil-tutorial train` wrote.

    Raises:
        DataError: no such file, it may not be read, or it is not a whole checkpoint.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such checkpoint. Make one with `mil-tutorial train`.")
    try:
        state = load_tensors(path)
        model = ABMIL(state["in_dim"], gated=state["gated"])
        model.load_state_dict(state["model"])
        slides = tuple(str(n) for n in state.get("slides", ()))
        known = KnownSlides.from_state(state["known"]) if state.get("known") else None
        gated, encoder, threshold = bool(state["gated"]), str(state["encoder"]), float(state["threshold"])
        return TrainedModel(model, gated, encoder, threshold, int(state["seed"]), slides, known)
    except PermissionError as error:
        raise DataError(f"{path}: you may not read this file. Ask for the right to.") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(
            f"{path}: is not a checkpoint of `mil-tutorial train` ({str(error)[:160]}). Train again."
        ) from error
