"""Slides of notebook 4: training. Training and validation slides only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from deck import course
from deck.exercises import roadmap
from deck.look import INK, SOFT, Slide, claim, intervals, panels, vote
from mil_tutorial import ABMIL, auc_interval, bags_from_arrays, collate_fn, fit, make_loader, split_bags
from mil_tutorial.style import NORMAL, TUMOR

SPLIT = 1234  # as in the notebook


def curves(axis, history, title: str = "", *, words: bool = True) -> None:
    """Two learning curves and the best epoch."""
    epochs = np.arange(1, len(history.train_loss) + 1)
    axis.plot(epochs, history.train_loss, color=NORMAL)
    axis.plot(epochs, history.val_loss, color=TUMOR)
    axis.axvline(history.best_epoch + 1, color=INK, lw=3, ls="--")
    axis.set(title=title, xlabel="epoch", ylabel="loss", ylim=(0, None), xticks=[1, len(epochs) // 2, len(epochs)])
    if words:
        axis.annotate(
            "training",
            (epochs[-1], history.train_loss[-1]),
            (10, 0),
            textcoords="offset points",
            color=NORMAL,
            va="center",
        )
        axis.annotate(
            "validation",
            (epochs[-1], history.val_loss[-1]),
            (10, 0),
            textcoords="offset points",
            color=TUMOR,
            va="center",
        )


def draw_it() -> Slide:
    """Empty axes."""
    figure, (axis,) = panels(1)
    axis.set(xlim=(0, 20), ylim=(0, 0.8), xlabel="epoch", ylabel="loss", xticks=[1, 10, 20], yticks=[0, 0.69])
    axis.set_yticklabels(["0", "a coin: 0.69"])
    axis.plot([1], [0.69], "o", ms=18, color=NORMAL)
    axis.plot([1], [0.66], "o", ms=18, color=TUMOR)
    axis.text(10, 0.4, "?", fontsize=120, ha="center", va="center", color=SOFT)
    return Slide(
        "draw both curves",
        "Blue: slides that the model learns from. Orange: slides that it does not. Take a pencil, one minute.",
        figure,
        ("Collect three drawings. Ask where each of them would stop.",),
        2,
        "predict",
        alt="Empty axes: loss against epoch, with two starting points near 0.69.",
    )


def good_run() -> Slide:
    """A run of the course."""
    history = course.train(0, split=SPLIT).history
    figure, (axis,) = panels(1)
    curves(axis, history)
    gap = history.val_loss[-1] - history.train_loss[-1]
    return Slide(
        claim(gap > 0.05, "Training loss falls on, validation loss levels off"),
        f"The validation slides choose the epoch: number {history.best_epoch + 1}, the dashed line. The test"
        " slides choose nothing.",
        figure,
        (
            "Three mistakes to make on purpose: no model.eval(), no zero_grad(), the best weights kept by reference.",
            "Where orange levels off, the model begins to learn its slides by heart.",
        ),
        minutes=4,
        alt="Two curves that fall; the orange one levels off, a dashed line marks the best epoch.",
    )


def by_heart() -> Slide:
    """Sixteen slides, two step sizes."""
    run = course.train(0, split=SPLIT)
    labels = run.train.get_bag_labels()
    few = run.train.subset(train_test_split(range(len(labels)), train_size=16, random_state=0, stratify=labels)[0])
    figure, axes = panels(2)
    axes[1].sharey(axes[0])
    histories = []
    for axis, lr, word in zip(axes, (2e-3, 2e-4), ("large steps (0.002)", "small steps (0.0002)"), strict=True):
        torch.manual_seed(0)
        model = ABMIL(few[0]["X"].shape[1])
        histories.append(fit(model, make_loader(few, seed=0), make_loader(run.val), epochs=40, lr=lr, progress=False))
        curves(axis, histories[-1], f"16 slides, {word}", words=False)
    axes[1].text(12, histories[1].train_loss[11] - 0.08, "training", color=NORMAL, ha="right", va="top")
    axes[1].text(12, histories[1].val_loss[11] + 0.08, "validation", color=TUMOR, va="bottom")
    rise = histories[0].val_loss[-1] - min(histories[0].val_loss)
    return Slide(
        claim(rise > 0.1 and histories[0].train_loss[-1] < 0.1, "Few slides and large steps: learnt by heart"),
        f"On the left validation loss rises by {rise:.2f} after epoch {histories[0].best_epoch + 1},"
        f" on the right the best epoch is {histories[1].best_epoch + 1}.",
        figure,
        ("Ask first: how many slides are too few?", "The gap between the curves is what was learnt by heart."),
        minutes=3,
        alt="Left: training loss goes to zero while validation loss rises. Right: both fall slowly.",
    )


def guess_shuffled() -> Slide:
    """The vote."""
    return vote(
        "what will the training loss do?",
        "The labels are shuffled: every slide gets another one's. There is nothing left to learn.",
        ("it stays\nat 0.69", "it falls\nall the same", "it rises"),
        "Take a second bet: which validation AUC?",
    )


def shuffled() -> Slide:
    """Training on labels that mean nothing."""
    dataset, figure_and_axes = course.bags("train"), panels(2, [1.3, 1])
    labels, X = dataset.get_bag_labels(), [bag["X"].numpy() for bag in dataset]
    figure, axes = figure_and_axes
    aucs, last = [], []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(labels))
        fit_part, val = split_bags(bags_from_arrays(X, [labels[i] for i in order]), seed=seed, val_fraction=0.3)
        torch.manual_seed(seed)
        history = fit(
            ABMIL(X[0].shape[1]), make_loader(fit_part, seed=seed), make_loader(val), epochs=10, lr=5e-4, progress=False
        )
        axes[0].plot(range(1, 11), history.train_loss, color=NORMAL)
        aucs.append(history.val_auc[-1])
        last.append(history.train_loss[-1])
    axes[0].set(title="training loss, three shuffles", xlabel="epoch", ylim=(0, 0.8), xticks=[1, 5, 10])
    axes[1].scatter(aucs, [0, 1, 2], s=400, color=TUMOR)
    axes[1].axvline(0.5, color=INK, lw=3, ls="--")
    axes[1].set(title="validation AUC", xlim=(0, 1), ylim=(-0.7, 2.7), yticks=[], xticks=[0, 0.5, 1])
    return Slide(
        claim(
            max(last) < 0.68 and max(abs(a - 0.5) for a in aucs) < 0.3, "It falls: the model learns what means nothing"
        ),
        f"With {len(val)} validation slides, AUCs from 0.3 to 0.7 are still chance. Far outside: something leaks.",
        figure,
        (
            "Answer to the notebook's Predict: the training loss falls. That is learning by heart.",
            "A check that costs a minute and that every project needs.",
        ),
        alt="Left: three falling training curves. Right: three AUCs around 0.5.",
    )


def the_zoo() -> Slide:
    """Does padding change the loss of torchmil's models?"""
    from torchmil import models as zoo

    def loss(model, batch) -> float:
        inputs = {k: v for k, v in batch.items() if k in inspect.signature(model.compute_loss).parameters}
        return float(sum(model.compute_loss(**inputs)[1].values()))

    val, changes = course.train(0, split=SPLIT).val, {}
    for name in ("ABMIL", "DSMIL", "TransformerABMIL", "CLAM_SB", "TransMIL"):
        torch.manual_seed(0)
        model = getattr(zoo, name)(in_shape=(val[0]["X"].shape[1],)).eval()
        found = []
        with torch.inference_mode():
            for i in range(4):
                bag = dict(collate_fn([val[i]]).items())
                n = bag["X"].shape[1]
                more = {k: torch.cat([v, v.new_zeros(1, n, *v.shape[2:])], 1) for k, v in bag.items() if k != "Y"}
                found.append(abs(loss(model, bag) - loss(model, {**more, "Y": bag["Y"]})))
        changes[name] = max(found)
    figure, (axis,) = panels(1)
    good = {name: size < 1e-5 for name, size in changes.items()}
    axis.barh(list(changes), list(changes.values()), color=[NORMAL if good[n] else TUMOR for n in changes])
    axis.invert_yaxis()
    axis.set(xlabel="change of the loss when half of the batch is padding", xlim=(0, 1.25 * max(changes.values())))
    for i, (name, size) in enumerate(changes.items()):
        axis.text(size + 0.01 * max(changes.values()), i, "0" if good[name] else f"{size:.2f}", va="center")
    return Slide(
        claim(
            0 < sum(good.values()) < len(good),
            f"Padding changes {len(good) - sum(good.values())} of these {len(good)} models",
        ),
        "There the neighbour in the batch would change a patient's result. The way out: one bag at a time.",
        figure,
        (
            "Random weights, models of torchmil. TransMIL takes no mask; CLAM's loss looks at patches of lowest"
            " attention, padding too.",
            "Do not let them rank models here.",
        ),
        alt="Five bars: no change for some models, a change for others.",
    )


def cannot_rank() -> Slide:
    """Intervals on the validation slides."""
    answers = {name: course.train(0, name, SPLIT).validation for name in course.POOLINGS}
    found = {name: auc_interval(a.Y, a.prob) for name, a in answers.items()}
    figure = intervals(found, "AUC on the validation slides, 95 % interval")
    n = len(course.train(0, split=SPLIT).val)
    overlap = max(e.low for e in found.values()) < min(e.high for e in found.values())
    return Slide(
        claim(overlap, f"{n} validation slides cannot rank models"),
        "Every interval overlaps with every other one. A table of means hides this.",
        figure,
        ("Notebook 5 shows what to do: more seeds, intervals, a paired test on the test slides.",),
        alt="Three points with long, overlapping intervals.",
    )


def slides() -> Iterator[Slide]:
    """The slides of the chapter."""
    yield roadmap(
        4, "4 · Training", "A loop of thirty lines, and the three ways in which it lies to you.",
        "Without a GPU everything here takes seconds, too.",
    )  # fmt: skip
    yield draw_it()
    yield good_run()
    yield by_heart()
    yield guess_shuffled()
    yield shuffled()
    yield the_zoo()
    yield cannot_rank()
