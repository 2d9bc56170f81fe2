"""Slides of notebook 3: attention-based MIL. Training and validation slides only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from deck import course
from deck.exercises import roadmap
from deck.look import FIGURE, INK, SOFT, VIOLET, Slide, claim, drawing_board, panels, vote
from mil_tutorial import ABMIL, collate_fn
from mil_tutorial.style import NORMAL, TUMOR


def three_poolings() -> Slide:
    """Mean, maximum, attention."""
    values = np.array([0.1, 0.2, 0.1, 0.9, 0.15, 0.2])
    weights = {
        "mean": np.full(6, 1 / 6),
        "maximum": np.eye(6)[3],
        "attention": np.array([0.05, 0.06, 0.05, 0.7, 0.07, 0.07]),
    }
    figure, axes = panels(3)
    for axis, (title, weight) in zip(axes, weights.items(), strict=True):
        axis.bar(range(6), weight, color=[TUMOR if i == 3 else NORMAL for i in range(6)])
        axis.set(ylim=(0, 1.05), xticks=[], xlabel="six patches", yticks=[0, 1])
        axis.set_title(f"{title}: {weight @ values:.2f}", fontsize=24, weight="bold")
    axes[0].set_ylabel("weight")
    return Slide(
        "Mean drowns one patch, maximum hears only one",
        "Attention is a mean with weights that the model learns. These are made up.",
        figure,
        (
            "Cover the third picture and ask for weights by hand.",
            "The orange patch has the value 0.9, the others about 0.15.",
        ),
        alt="Three bar charts of weights: all equal; one bar; one high bar and five low ones.",
    )


def the_equations() -> Slide:
    """The pipeline with shapes."""
    figure, axis = drawing_board()
    width, height = FIGURE
    steps = [
        ("patches", r"$\mathbf{x}_i$", "(n, D)"),
        ("look at it?", r"$f_i$", "(n)"),
        ("weights", r"$s_i$", "(n), sum 1"),
        ("mean", r"$\mathbf{z}$", "(D)"),
        ("answer", r"$\hat{Y}$", "()"),
    ]
    arrows = [r"$\mathbf{w}^\top\tanh(\mathbf{V}\mathbf{x}_i)$", "softmax", r"$\sum s_i\,\mathbf{x}_i$", "linear"]
    side, gap = 180, 79
    for i, (word, symbol, shape) in enumerate(steps):
        x = i * (side + gap)
        axis.add_patch(
            FancyBboxPatch((x + 10, 130), side - 20, 200, boxstyle="round,pad=6", fc="white", ec=VIOLET, lw=4)
        )
        axis.text(x + side / 2, 295, word, ha="center", va="center")
        axis.text(x + side / 2, 230, symbol, ha="center", va="center", fontsize=36, color=TUMOR)
        axis.text(x + side / 2, 160, shape, ha="center", va="center", color=VIOLET, weight="bold")
        if i:
            axis.add_patch(
                FancyArrowPatch((x - gap, 230), (x, 230), arrowstyle="-|>", mutation_scale=26, color=INK, lw=3)
            )
            axis.text(x - gap / 2, 380 if i % 2 else 80, arrows[i - 1], ha="center", va="center", fontsize=25)
    return Slide(
        "Four steps from n patches to one number",
        "Say the shape at every step. Nobody gets lost who knows the shapes.",
        figure,
        (
            "f says how much to look at a patch. The softmax makes positive weights with sum 1. z is their"
            " weighted mean.",
            "Common mistake: softmax over the wrong axis. The shapes still fit, and nothing complains.",
        ),
        minutes=4,
        alt="Five boxes from patches to answer, with symbols and shapes, joined by arrows with the equations.",
    )


def seen() -> str:
    """A validation slide with tumour that the trained model is sure of."""
    answers = course.train(0).validation
    return max((p, n) for n, p, y in zip(answers.names, answers.prob, answers.Y, strict=True) if y == 1)[1]


def attention(model, X: torch.Tensor) -> np.ndarray:
    """Softmax weights of one bag."""
    with torch.inference_mode():
        return torch.softmax(model.eval()(X[None], return_att=True)[1][0], 0).numpy()


def before_and_after() -> Slide:
    """Weights of one slide, untrained and trained."""
    name = seen()
    X = course.bags("train")[course.bags("train").get_bag_names().index(name)]["X"]
    torch.manual_seed(0)
    weights = {"before training": attention(ABMIL(X.shape[1]), X), "after": attention(course.train(0).model, X)}
    truth = course.truth_of(name)
    figure, axes = panels(2)
    axes[1].sharey(axes[0])
    for axis, (title, s) in zip(axes, weights.items(), strict=True):
        axis.bar(range(len(s)), s * len(s), color=np.where(truth == 1, TUMOR, NORMAL))
        axis.axhline(1, color=INK, lw=3, ls="--")
        axis.set(title=title, xlabel=f"{len(s)} patches of a validation slide", xticks=[])
    axes[0].set_ylabel("weight, in fair shares")
    on_tumour = weights["after"][truth == 1].sum()
    return Slide(
        claim(weights["after"].max() > 3 * weights["before training"].max(), "Training makes even weights sharp"),
        f"Tumour patches (orange) are {np.mean(truth == 1):.0%} of the slide and get {on_tumour:.0%} of the attention.",
        figure,
        (
            "The dashed line is 1: a fair share. Nobody told the model which patches are orange.",
            "The slide is one of the validation set, and the model is sure of it. Others look less tidy: notebook 6.",
        ),
        alt="Two bar charts. Left: all bars near 1. Right: a few high bars, most of them orange.",
    )


def guess_invariance() -> Slide:
    """The vote."""
    return vote(
        "what changes the logit of a bag?",
        "Hands up for each of the three.",
        ("another order\nof its patches", "ten rows\nof padding", "other bags\nin the batch"),
        "Let two people with different answers explain theirs.",
    )


def invariance() -> Slide:
    """The answer, measured on the trained model."""
    model, val = course.train(0).model.eval(), course.train(0).val
    bags = [val[i] for i in range(len(val))]
    small = min(range(len(bags)), key=lambda i: len(bags[i]["X"]))
    X, D = bags[small]["X"], bags[small]["X"].shape[1]
    with torch.inference_mode():
        alone = model(X[None]).item()
        order = model(X[torch.from_numpy(np.random.default_rng(0).permutation(len(X)))][None]).item()
        longer, mask = torch.cat([X, torch.zeros(10, D)])[None], torch.arange(len(X) + 10)[None] < len(X)
        pad, batch = model(longer, mask).item(), collate_fn(bags)
        neighbours = model(batch["X"], batch["mask"])[small].item()
        no_mask = model(batch["X"])[small].item()
    changes = {
        "another order": order,
        "ten rows of padding": pad,
        "other bags": neighbours,
        "other bags, no mask": no_mask,
    }
    sizes = [max(abs(value - alone), 1e-8) for value in changes.values()]
    figure, (axis,) = panels(1)
    axis.barh(list(changes), sizes, color=[NORMAL] * 3 + [TUMOR])
    axis.invert_yaxis()
    ticks = {1e-6: "0.000 001", 1e-4: "0.000 1", 1e-2: "0.01", 1: "1"}
    axis.set(xscale="log", xlabel="change of the logit (log scale)", xlim=(1e-8, 10), xticks=list(ticks))
    axis.set_xticklabels(ticks.values())
    axis.minorticks_off()
    for i, size in enumerate(sizes):
        axis.text(size * 1.3, i, f"{size:.2g}" if size > 1e-4 else "rounding", va="center")
    return Slide(
        claim(max(sizes[:3]) < 1e-4 < 1e-3 < sizes[3], "None of them, as long as there is a mask"),
        f"A bag is a set. Without the mask this slide's answer depends on its neighbours: {alone:+.2f} becomes"
        f" {no_mask:+.2f}.",
        figure,
        (
            "The most useful slide for researchers: which of these checks does your own model pass?",
            "Answer to the notebook's Predict: (a), (b) and (c) change nothing beyond rounding.",
        ),
        minutes=3,
        alt="Four bars on a logarithmic scale: three tiny ones, and a large one without mask.",
    )


def without_mask() -> Slide:
    """How much attention padding takes."""
    model, val = course.train(0).model.eval(), course.train(0).val
    batch = collate_fn([val[i] for i in range(len(val))])
    with torch.inference_mode():
        f = model(batch["X"], batch["mask"], return_att=True)[1]
        raw = model(batch["X"], return_att=True)[1]
    good = torch.softmax(f.masked_fill(~batch["mask"], -torch.inf), 1)
    wrong = torch.softmax(raw, 1)
    lost = [((s * ~batch["mask"]).sum(1) * 100).numpy() for s in (wrong, good)]
    order = np.argsort(batch["mask"].sum(1).numpy())
    figure, (axis,) = panels(1)
    axis.bar(range(len(order)), lost[0][order], color=TUMOR, label="without mask")
    axis.bar(range(len(order)), 0.15 + lost[1][order], color=NORMAL, label="with mask: 0")
    axis.set(ylabel="% of attention on padding", xlabel="validation slides, the smallest bag first", xticks=[])
    figure.legend(loc="outside upper right", ncols=2)
    return Slide(
        claim(lost[0].max() > 1 and lost[1].max() == 0, "Without a mask, rows of zeros get attention"),
        f"Up to {lost[0].max():.0f} % of a slide's attention lies on patches that do not exist. −∞ before the"
        " softmax makes it 0.",
        figure,
        ("Let someone forget the mask on purpose in the notebook, and look at the number that changes.",),
        alt="Bars: the smaller the bag, the more attention falls on padding; with a mask none does.",
    )


def cannot_count() -> Slide:
    """Exercise 4 as a picture: every patch twice."""
    s = np.array([0.1, 0.6, 0.3])
    figure, axes = panels(2, [1, 2])
    for axis, weights, title in zip(axes, [s, np.repeat(s, 2) / 2], ["a bag", "every patch twice"], strict=True):
        axis.bar(
            range(len(weights)), weights, color=[c for c in (NORMAL, TUMOR, VIOLET) for _ in range(len(weights) // 3)]
        )
        axis.set(
            title=f"{title}: weights {weights.min():.2f} to {weights.max():.2f}",
            ylim=(0, 0.65),
            xticks=[],
            yticks=[0, 0.3, 0.6],
        )
    axes[0].set_ylabel("weight")
    axes[1].spines[:].set_edgecolor(SOFT)
    return Slide(
        "ABMIL cannot count: it sees shares",
        "Exercise 4: each weight is halved, the weighted mean stays, and so does the answer.",
        figure,
        ("Twice as many terms in the denominator. So ten tumour patches among a hundred look like one among ten.",),
        late=True,
        alt="Three bars; beside them six bars of half the height.",
    )


def slides() -> Iterator[Slide]:
    """The slides of the chapter."""
    yield roadmap(
        3, "3 · Attention-based MIL", "From many patches to one answer, whatever their number.",
        "This is the heart of the course. Take your time.",
    )  # fmt: skip
    yield three_poolings()
    yield the_equations()
    yield before_and_after()
    yield guess_invariance()
    yield invariance()
    yield without_mask()
    yield cannot_count()
