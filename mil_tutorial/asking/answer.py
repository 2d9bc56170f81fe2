"""What checkpoints say about one slide, and what speaks against believing them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mil_tutorial.asking.compare import Comparison
from mil_tutorial.asking.trained import TrainedModel
from mil_tutorial.trident import Patches

CONTRIBUTION, SHARE = "logit contribution", "attention x n"


@dataclass(frozen=True)
class ModelAnswer:
    """What one checkpoint says: `tumour` is whether the probability is above its own threshold."""

    checkpoint: str
    probability: float
    threshold: float

    @property
    def tumour(self) -> bool:
        """Whether it predicts tumour."""
        return self.probability > self.threshold


@dataclass(frozen=True)
class SlideAnswer:
    """What checkpoints say about one slide. In a notebook, the last line of a cell shows it.

    Attributes:
        name: of the slide.
        slide: its path or address.
        patches: its patches.
        mpp: µm per pixel at level 0, None if nothing says it.
        answers: one for each checkpoint.
        scores: name -> (n,): `logit contribution` and `attention x n`, means over the checkpoints.
        detections: (k, 3) score, x, y, as `localize_slide` gives them, of the means.
        comparisons: with the training slides; empty if no checkpoint knows them.
        models: the checkpoints.
        notes: what the files of the slide say that a reader should know.
        card: HTML with pictures, which a notebook shows.
        report: the page that was written, None without a folder.
    """

    name: str
    slide: Path | str
    patches: Patches
    mpp: float | None
    answers: tuple[ModelAnswer, ...]
    scores: dict[str, np.ndarray]
    detections: np.ndarray
    comparisons: tuple[Comparison, ...]
    models: tuple[TrainedModel, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    card: str = field(default="", repr=False)
    report: Path | None = None

    @property
    def probability(self) -> float:
        """Of tumour: the mean over the checkpoints."""
        return float(np.mean([a.probability for a in self.answers]))

    @property
    def threshold(self) -> float:
        """The mean of the checkpoints' thresholds."""
        return float(np.mean([a.threshold for a in self.answers]))

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest probability of a checkpoint."""
        values = [a.probability for a in self.answers]
        return min(values), max(values)

    @property
    def tumour(self) -> bool:
        """Whether tumour is predicted."""
        return self.probability > self.threshold

    @property
    def warnings(self) -> list[str]:
        """Reasons to doubt the answer: where the slide is unlike the training slides, and what is not known."""
        out = [c.says for c in self.comparisons if c.warns]
        if not self.comparisons:
            out.append(
                "The checkpoint does not know its training slides (an earlier version wrote it), so nothing can be said"
                " on whether this slide is like them. Train again to know."
            )
        if any(self.name in model.slides for model in self.models):
            out.append("A slide of this name was trained or validated on: the answer is no test of the model.")
        values = {a.tumour for a in self.answers}
        if len(values) > 1:
            yes = sum(a.tumour for a in self.answers)
            out.append(f"The checkpoints disagree: {yes} of {len(self.answers)} say tumour.")
        return out

    def _repr_html_(self) -> str:
        return self.card
