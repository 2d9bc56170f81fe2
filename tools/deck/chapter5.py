"""Slides of notebook 5: evaluation. The test slides are looked at here, and choose nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from sklearn.neighbors import KNeighborsClassifier

from deck import course
from deck.exercises import roadmap
from deck.look import INK, SOFT, VIOLET, Slide, claim, intervals, panels, vote
from mil_tutorial import ABMIL, auc_interval, choose_threshold, make_loader, predict
from mil_tutorial.style import NORMAL, TUMOR

BEFORE = 0.953, 128  # accuracy and test slides that the original tutorial publishes, with CONCH v1.5 features


def one_number() -> Slide:
    """How far chance moves an accuracy."""
    accuracy, n = BEFORE
    drawn = np.random.default_rng(0).binomial(n, accuracy, 5000) / n
    low, high = np.quantile(drawn, [0.025, 0.975])
    figure, (axis,) = panels(1)
    axis.hist(drawn, bins=np.arange(0.87, 1.005, 1 / n) - 0.5 / n, color=NORMAL, rwidth=0.85)
    axis.set_ylim(0, axis.get_ylim()[1] * 1.2)
    axis.axvspan(low, high, color=TUMOR, alpha=0.15, zorder=0)
    axis.set(xlabel=f"accuracy on {n} slides, 5000 times", yticks=[])
    axis.text(
        (low + high) / 2,
        axis.get_ylim()[1] * 0.97,
        f"95 %: {low:.3f} to {high:.3f}",
        ha="center",
        va="top",
        color=TUMOR,
        weight="bold",
    )
    return Slide(
        f"One number is not enough: {accuracy} may be {low:.2f} or {high:.2f}",
        f"A coin that is right with probability {accuracy}, thrown for {n} slides, again and again.",
        figure,
        (
            f"{accuracy} on {n} slides is what the original tutorial publishes. Ask: what would 20 other test"
            " sets have given?",
        ),
        alt="A histogram of accuracies; the middle 95 percent are shaded.",
    )


def called(seed: int = 0) -> tuple[np.ndarray, float]:
    """Which test slides are called tumour, by the threshold of the validation slides."""
    validation = course.train(seed).validation
    threshold = choose_threshold(validation.Y, validation.prob)
    return course.test_answers(seed).prob > threshold, threshold


def every_slide() -> Slide:
    """The test slides on one axis."""
    test, (calls, threshold) = course.test_answers(), called()
    figure, (axis,) = panels(1)
    for value, color in ((0, NORMAL), (1, TUMOR)):
        chosen = test.prob[value == test.Y]
        axis.scatter(
            chosen,
            value + np.random.default_rng(1).uniform(-0.28, 0.28, len(chosen)),
            s=260,
            color=color,
            alpha=0.75,
            lw=0,
        )
    axis.axvline(threshold, color=INK, lw=3, ls="--")
    axis.set(
        yticks=[0, 1],
        yticklabels=["normal", "tumour"],
        ylim=(-0.5, 1.7),
        xlabel="tumour probability",
        xlim=(-0.03, 1.03),
    )
    axis.text(threshold + 0.01, 1.6, f"threshold {threshold:.2f}, from validation", va="top")
    missed, alarms = int((~calls & (test.Y == 1)).sum()), int((calls & (test.Y == 0)).sum())
    return Slide(
        f"{missed} tumour slides are missed, {alarms} false alarms",
        f"Every point is one of {len(test.Y)} test slides. Points on the wrong side of the line are the errors.",
        figure,
        ("The threshold was chosen on validation slides. One half is a habit, not a law.",),
        alt="Two rows of points along the tumour probability, with a dashed threshold.",
    )


def guess_baseline() -> Slide:
    """The vote."""
    return vote(
        "which comes closest to ABMIL?",
        "All are trained on the same slides. The score is the AUC on the test slides.",
        ("always\n“normal”", "the mean of\nthe patches", "the best\nsingle patch"),
        "A score means little alone: compared with what?",
    )


def auc(Y: np.ndarray, prob: np.ndarray) -> float:
    """Share of pairs in the right order."""
    return float(np.mean(np.sign(prob[Y == 1][:, None] - prob[Y == 0]) / 2 + 0.5))


def baselines() -> Slide:
    """Five seeds of three poolings."""
    found = {"majority": [0.5] * len(course.SEEDS)}
    for name in ("mean pooling", "max pooling", "ABMIL"):
        answers = [course.test_answers(seed, name) for seed in course.SEEDS]
        found[name] = [auc(a.Y, a.prob) for a in answers]
    figure, (axis,) = panels(1)
    for i, values in enumerate(found.values()):
        axis.scatter(values, [i] * len(values), s=260, color=NORMAL, alpha=0.6, lw=0)
        axis.plot([np.mean(values)] * 2, [i - 0.3, i + 0.3], color=TUMOR, lw=6)
        axis.text(
            np.mean(values), i - 0.34, f"{np.mean(values):.3f}", ha="center", va="bottom", color=TUMOR, weight="bold"
        )
    axis.set(
        yticks=range(len(found)),
        yticklabels=list(found),
        ylim=(3.5, -0.9),
        xlabel="AUC on the test slides, five seeds each",
    )
    means = {name: np.mean(v) for name, v in found.items()}
    best = max(means, key=means.get)
    closest = min((n for n in means if n != "ABMIL"), key=lambda n: abs(means[n] - means["ABMIL"]))
    return Slide(
        f"{closest.capitalize()} is closest" + (", and it is ahead" if best == closest else ""),
        "On these synthetic slides one patch can give the tumour away. That says nothing about real ones.",
        figure,
        (
            f"Answer to the notebook's Predict: {closest}. Over five seeds: "
            + ", ".join(f"{n} {v:.3f}" for n, v in means.items())
            + ".",
            "Why then build ABMIL? It need not be told whether one patch decides or many. Whether that pays is a"
            " question for your data.",
        ),
        minutes=4,
        alt="Rows of five points each for majority, mean, max and attention pooling, with their means.",
    )


def two_lucks() -> Slide:
    """Intervals of every seed."""
    answers = {f"seed {s}": course.test_answers(s) for s in course.SEEDS}
    found = {name: auc_interval(a.Y, a.prob) for name, a in answers.items()}
    figure = intervals(found, "AUC of ABMIL, 95 % interval over slides")
    spread = np.ptp([e.value for e in found.values()])
    width = np.mean([e.high - e.low for e in found.values()])
    return Slide(
        claim(width > spread, "Luck of the slides is larger than luck of the seed"),
        f"Between seeds: {spread:.3f}. Between other sets of {len(course.test_answers().Y)} slides: about"
        f" {width:.3f}. No seed makes that smaller.",
        figure,
        ("Trap 1: “we report our best run”. Ask what one would write about each of these rows.",),
        alt="Five points close together, each with a long interval.",
    )


def who_is_missed() -> Slide:
    """Found and missed by size of the lesion."""
    test, (calls, _) = course.test_answers(), called()
    words = {"itc": "isolated cells", "micro": "micro", "macro": "macro"}
    figure, (axis,) = panels(1)
    shares = []
    for i, (kind, _word) in enumerate(words.items()):
        of_kind = np.isin(test.names, course.of_size(kind, "test"))
        n, hit = int(of_kind.sum()), int(calls[of_kind].sum())
        axis.barh(i, hit, color=NORMAL)
        axis.barh(i, n - hit, left=hit, color=TUMOR)
        axis.text(n + 0.15, i, f"found {hit} of {n}", va="center")
        shares.append(hit / n)
    axis.set(
        yticks=range(3),
        yticklabels=list(words.values()),
        ylim=(2.6, -0.6),
        xlabel="test slides with tumour",
        xlim=(0, 16),
    )
    figure.legend([axis.patches[0], axis.patches[1]], ["found", "missed"], loc="outside upper right", ncols=2)
    return Slide(
        claim(min(shares[:2]) < 1 and shares[2] == 1, "What is missed is small"),
        "One number hides this. Look at the pictures of the missed slides before you change anything.",
        figure,
        ("You may look at missed test slides. After a change made because of them they are no test any more.",),
        alt="Three bars by lesion size: the large lesions are all found, small ones are missed.",
    )


def guess_gap() -> Slide:
    """The vote."""
    return vote(
        f"you let the {len(course.test_answers().Y)} test slides choose",
        "Score them after every epoch, report the best epoch and threshold. How much accuracy does that add?",
        ("0.00", "0.02", "0.10"),
        "Everyone has done this once. Ask for hands.",
    )


def the_gap() -> Slide:
    """Honest and tempting accuracy of the same runs."""
    truth, loader = course.test_answers().Y == 1, make_loader(course.bags("test"))
    model, pairs = ABMIL(course.bags("test")[0]["X"].shape[1]), []
    for seed in course.SEEDS:
        rows = []
        for loss, weights in course.train(seed).diary:
            model.load_state_dict(weights)
            prob = predict(model, loader).prob
            rows.append(
                (loss, ((prob > 0.5) == truth).mean(), max(((prob > t) == truth).mean() for t in np.unique(prob)))
            )
        pairs.append((min(rows)[1], max(r[2] for r in rows)))
    honest, tempting = np.array(pairs).T
    figure, (axis,) = panels(1)
    for i, (a, b) in enumerate(pairs):
        axis.plot([a, b], [i, i], color=SOFT, lw=6, zorder=0)
    axis.scatter(honest, range(5), s=400, color=NORMAL, label="honest: validation chooses")
    axis.scatter(tempting, range(5), s=400, color=TUMOR, label="tempting: the test slides choose")
    axis.set(
        yticks=range(5),
        yticklabels=[f"seed {s}" for s in course.SEEDS],
        ylim=(4.6, -0.6),
        xlabel="accuracy on the test slides",
    )
    figure.legend(loc="outside upper center", ncols=2)
    gap = (tempting - honest).mean()
    return Slide(
        claim(gap > 0, f"Letting the test slides choose adds {gap:.2f}, for nothing"),
        f"The same runs, the same weights. From {min(tempting - honest):.3f} to {max(tempting - honest):.3f} over"
        " five seeds.",
        figure,
        (f"Answer to the notebook's Predict: about {gap:.2f}. It cannot be negative: the test set was asked.",),
        alt="Five pairs of points; the orange one always lies to the right of the blue one.",
    )


def the_leak() -> Slide:
    """Patches of one slide on both sides."""
    draw = np.random.default_rng(0)
    X = [course.bags("train")[i]["X"] for i in range(60)]
    taken = [x[torch.from_numpy(draw.permutation(len(x))[:20])] for x in X]
    features, slide_of = torch.cat(taken).numpy(), np.repeat(np.arange(60), [len(t) for t in taken])
    lots, found = [draw.permutation(np.arange(60) % 2) for _ in range(8)], {}
    for word, splitter in (("patches at random", ShuffleSplit), ("whole slides", GroupShuffleSplit)):
        splits = splitter(8, test_size=0.3, random_state=0).split(features, groups=slide_of)
        found[word] = [
            KNeighborsClassifier(5).fit(features[a], lot[slide_of][a]).score(features[b], lot[slide_of][b])
            for lot, (a, b) in zip(lots, splits, strict=True)
        ]
    figure, (axis,) = panels(1)
    for i, (values, color) in enumerate(zip(found.values(), (TUMOR, NORMAL), strict=True)):
        axis.scatter(values, [i] * 8, s=300, color=color, alpha=0.6, lw=0)
        axis.plot([np.mean(values)] * 2, [i - 0.25, i + 0.25], color=VIOLET, lw=6)
    axis.axvline(0.5, color=INK, lw=3, ls="--")
    axis.set(
        yticks=[0, 1], yticklabels=[f"split {w}" for w in found], ylim=(1.6, -0.6), xlabel="accuracy with random labels"
    )
    a, b = (np.mean(v) for v in found.values())
    return Slide(
        claim(a > b + 0.03, "A split of patches finds what is not there"),
        f"The labels are random, so 0.5 is honest. Split by patches: {a:.2f}. Split by slides: {b:.2f}. Same"
        " classifier.",
        figure,
        ("Patches of one slide share its stain. Split by slide, and by patient where one has several slides.",),
        alt="Two rows of points: one clearly right of 0.5, one around it.",
    )


def slides() -> Iterator[Slide]:
    """The slides of the chapter."""
    yield roadmap(
        5, "5 · Evaluation that one can believe", "How good is it, how sure are we, and compared with what?",
        "Say it slowly: the test set is looked at, and never chooses anything.",
    )  # fmt: skip
    yield one_number()
    yield every_slide()
    yield guess_baseline()
    yield baselines()
    yield two_lucks()
    yield who_is_missed()
    yield guess_gap()
    yield the_gap()
    yield the_leak()
