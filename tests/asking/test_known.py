"""What a checkpoint knows of its training slides: false alarms stay rare, and what is strange is seen."""

import numpy as np
import pytest
import torch

from mil_tutorial.asking.known import (
    KnownSlides,
    distance,
    false_alarms,
    fit_axes,
    held_out_distances,
    know_slides,
    rarity,
    verdict,
)

rng = np.random.default_rng(0)
MIX = rng.normal(size=(6, 40)).astype(np.float32)


def made(n, shift=0.0):
    """Slides of 8 to 40 patches: six kinds of tissue in other shares on each, and noise."""
    out = []
    for _ in range(n):
        kinds = rng.dirichlet(np.ones(6), size=1) + 0.3 * rng.normal(size=(rng.integers(8, 40), 6))
        out.append((kinds @ MIX + 0.5 * rng.normal(size=(len(kinds), 40)) + shift).astype(np.float32))
    return out


@pytest.mark.slow
def test_slides_from_the_same_source_are_seldom_called_unlike():
    training = made(60)
    held, (center, axes) = held_out_distances(training), fit_axes(training)
    new = [verdict(rarity(distance(X, center, axes), held), 60) for X in made(400)]
    assert new.count("unlike") / 400 <= 1 / 61 + 0.02  # the rate that is stated, and three standard errors
    assert new.count("unlike") + new.count("unusual") <= 400 * 0.1


@pytest.mark.slow
@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_slides_that_are_shifted_off_the_axes_are_unlike(shift):
    training, off = made(60), rng.normal(size=40)
    held, (center, axes) = held_out_distances(training), fit_axes(training)
    assert {verdict(rarity(distance(X, center, axes), held), 60) for X in made(20, shift * off)} == {"unlike"}


def test_few_patches_are_not_far_by_chance():
    training = made(60)
    center, axes = fit_axes(training)
    small = [distance(X[:4], center, axes) for X in made(300)]
    large = [distance(X, center, axes) for X in made(300)]
    assert abs(np.mean(np.square(small)) - np.mean(np.square(large))) < 0.3  # noise of a mean of four alone gives 1.5


@pytest.mark.parametrize("n,part,expected", [(9, 0.1, "unlike"), (9, 0.2, "like"), (500, 0.012, "unusual")])
def test_verdicts(n, part, expected):
    assert verdict(part, n) == expected


def test_false_alarms_of_few_slides_are_told_as_they_are():
    assert false_alarms(9) == pytest.approx(0.3) and false_alarms(1000) == pytest.approx(0.02)


@pytest.mark.slow
def test_synthetic_training_slides(data, tmp_path):
    train = data.bags("train")
    part = train.subset(range(30)), train.subset(range(30, 38))
    known = know_slides(*part, encoder=data.encoder, synthetic=True, progress=False)
    assert known.n == 38 and known.training[0] == 30 and known.validation[0] == 8
    assert known.patches == {"mag": 20.0, "patch_size": 512, "overlap": 0} and known.magnifications == (40.0,)
    assert known.step == 1 / 512 and known.weights
    torch.save(known.state(), tmp_path / "known.pt")
    again = KnownSlides.from_state(torch.load(tmp_path / "known.pt", weights_only=True))
    assert np.array_equal(again.distances, known.distances) and again.training == known.training
    with pytest.raises(ValueError, match="axes of shape"):
        KnownSlides.from_state({**known.state(), "axes": torch.zeros(2, 3)})
