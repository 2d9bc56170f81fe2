"""The checks of the exercises: right solutions, stubs, and wrong answers, each of which gets a sentence that helps."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch

from mil_tutorial import ABMIL
from mil_tutorial.commands import returned, slicing
from mil_tutorial.exercises import checks, notebook_1, words

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
ALL = {e.key: e for n in words.NOTEBOOKS for e in checks.exercises_of(n)}


def auc(y, prob):
    return np.mean(np.sign(prob[y == 1][:, None] - prob[y == 0]) / 2 + 0.5)


def train_on_few(epochs, lr=1e-3, weight_decay=0.0, accumulate=1, schedule=None):
    """In place of the notebook's training: the best learning rate is 1e-3."""
    loss = 0.5 + abs(np.log10(lr) + 3) if lr > 0 else np.nan
    return SimpleNamespace(val_loss=[loss + 1, loss][:epochs], best_epoch=1)


MADE_UP = {  # for exercises that ask about the notebook's own slides, small ones
    "1.my_minimum": {
        "coords": np.array([[i, 0] for i in range(10)]),
        "labels": SimpleNamespace(label=np.array([0, 0, 0, 0, 1, 0, 0, 1, 0, 0])),
        "tissue_share": lambda x, y: x / 10,
    },
    "4.my_settings": {
        "train_on_few": train_on_few, "long": 40, "runs": {lr: train_on_few(epochs=40, lr=lr) for lr in (2e-3, 2e-4)},
    },
    "6.take_out": {
        "left_over": lambda name, gone: 0.1 if {3, 5} <= set(gone) else 0.9,
        "puzzle": "s", "goal": 2, "X": {"s": np.zeros((8, 2))}, "tested": ["attention x n", "b"],
        "fewest": lambda name, key: 2 if key == "b" else 4,
        "all_scores": {"s": {"attention x n": np.arange(8.0), "b": np.array([0, 0, 0, 9.0, 0, 8, 0, 0])}},
    },
}  # fmt: skip
FROM_NOTEBOOK = {"2.my_order": ["large"], "3.my_knob": ["lse", "make_scores", "auc"]}
FROM_NOTEBOOK["5.my_threshold"] = ["cost", "clinic_y", "clinic_prob", "clinic"]


@cache
def context(key):
    """What the notebook has at hand where the exercise stands: its own statements, or something small."""
    names = {"np": np, "torch": torch, "auc": auc, **MADE_UP.get(key, {})}
    if key in FROM_NOTEBOOK:
        kept, unknown = slicing.needed_for(FROM_NOTEBOOK[key], returned.Original(int(key[0])).before[key])
        assert not unknown
        exec("\n".join(s.text for s in kept), names)
    return names


def defined(exercise, tag, names):
    """What the notebook's cell with this tag gives the exercise's names."""
    (path,) = NOTEBOOKS.glob(f"0{exercise.notebook}-*.ipynb")
    for cell in nbformat.read(path, as_version=4).cells:
        if tag not in cell.metadata.get("tags", []):
            continue
        found = slicing.statements(cell.source)
        if any(set(exercise.writes) <= s.defines for s in found):
            kept, _ = slicing.needed_for(exercise.writes, found)
            exec("\n".join(s.text for s in kept), names)
            return [names[name] for name in exercise.takes]
    raise AssertionError(f"{path.name} has no cell tagged {tag} that defines {exercise.writes}")


@pytest.mark.slow
@pytest.mark.parametrize("key", ALL)
def test_the_notebooks_solution_is_right_and_its_stub_is_told_what_is_missing(key):
    exercise, names = ALL[key], dict(context(key))
    assert exercise.judge(*defined(exercise, "solution", dict(names))) == "Right."
    assert exercise.accepts(*defined(exercise, "solution", dict(names)))
    said = exercise.judge(*defined(exercise, "exercise", names))
    assert said.startswith("Not yet: ") and len(said) > 40 and not said.right


# Wrong answers: for each exercise a value or a function, and words that its sentence must hold.


def levels(d, side, px):
    return [i for i, f in enumerate(d) if side / f >= px]


def bootstrap(draw, quantiles=(0.025, 0.975), skip=True):
    def interval(y, prob, n=200):
        rng, values = np.random.default_rng(0), []
        while len(values) < n:
            pick, other = draw(rng, len(y))
            if not skip or 0 < y[pick].sum() < len(pick):
                values.append(auc(y[pick], prob[other]))
        return np.quantile(values, quantiles)

    return interval


def fair_draw(rng, n):
    pick = rng.integers(n, size=n)
    return pick, pick


def paired(*, swap=0.5, mode="both", add=1, pool=False):
    def p_value(y, a, b, n=200):
        rng, seen = np.random.default_rng(0), auc(y, a) - auc(y, b)
        hits = 0
        for _ in range(n):
            if pool:  # mixes slides, so that it is no paired test
                both = rng.permutation(np.concatenate([a, b]))
                difference = auc(y, both[: len(y)]) - auc(y, both[len(y) :])
            else:
                s = rng.random(len(y)) < swap
                other = s if mode != "one by one" else rng.random(len(y)) < swap
                difference = auc(y, np.where(s, b, a)) - auc(y, np.where(other, a, b))
            hits += difference >= seen if mode == "one" else abs(difference) >= abs(seen)
        return (add + hits) / (add + n)

    return p_value


def peaks(score, coords, radius, near=np.less):
    taken = []
    for i in np.argsort(-score):
        if not any(near(np.hypot(*(coords[i] - coords[j])), radius) for j in taken):
            taken.append(int(i))
    return taken


def stopping(losses, patience, slack=0, before=False):
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        elif epoch - best >= patience + slack:
            return epoch if before else epoch + 1
    return len(losses)


def gradient(weight, clear=lambda model, i: model.zero_grad() if i == 0 else None, step=False):
    def work(model, batches):
        total = sum(len(b["Y"]) for b in batches)
        for i, b in enumerate(batches):
            clear(model, i)
            loss = sum(model.compute_loss(b["Y"], b["X"], b["mask"])[1].values())
            (loss * weight(len(b["Y"]), total, len(batches))).backward()
        if step:
            torch.optim.SGD(model.parameters(), 0.1).step()

    return work


def splitter(draw):
    def split(patients, n_val, seed):
        val = draw(patients, n_val, seed)
        return [i for i in range(len(patients)) if i not in val], val

    return split


def by_patient(patients, n_val, seed):
    names = np.random.default_rng(seed).permutation(sorted(set(patients)))[:n_val]
    return [i for i, p in enumerate(patients) if p in names]


def with_replacement(patients, n_val, seed):
    names = np.random.default_rng(seed).choice(patients, n_val)
    return [i for i, p in enumerate(patients) if p in names]


def softmax_rows(f, dim):
    e = torch.exp(f - f.amax(dim, keepdim=True))
    return e / e.sum(dim, keepdim=True)


WRONG = {
    "1.my_minimum": [
        (lambda c: 0.0, "It goes further"),
        (lambda c: 0.8, "you lose 2 of the tumour"),
        (lambda c: 40, "not percent"),
        (lambda c: -1, "from 0 to 1"),
        (lambda c: "0.2", "'0.2'"),
        (lambda c: [0.1, 0.2], "one number"),
        (lambda c: float("nan"), "not a number"),
    ],
    "1.patches_above": [
        (lambda f, t: (f >= t).sum(), "not larger"),
        (lambda f, t: f > t, "one number"),
        (lambda f, t: (f > t).mean(), "how many"),
        (lambda f, t: 100 * (f > t).mean(), "how many"),
        (lambda f, t: (f < t).sum(), "below"),
        (lambda f, t: f[f > t].sum(), "count"),
        (lambda f, t: 7, "expected 2"),
        (lambda f, t: f[9], "stopped with IndexError"),
        (lambda f, t: "two", "'two'"),
        (lambda f, t: (f > 0.5).sum(), "that the function is given"),
        (lambda f, t: f > t and 1, "stopped with ValueError"),
    ],
    "1.choose_level": [
        (lambda d, s, p: max(levels(d, s, p)), "stopped with ValueError"),
        (lambda d, s, p: max(levels(d, s, p), default=-1), "0 to"),
        (lambda d, s, p: min(levels(d, s, p), default=0), "still fine enough"),
        (lambda d, s, p: float(max(levels(d, s, p), default=0)), "no decimals"),
        (lambda d, s, p: d[max(levels(d, s, p), default=0)], "0 to 3"),
        (lambda d, s, p: len(d) - 1, "only 128 pixels"),
        (lambda d, s, p: max(levels(d, s, p), default=len(d) - 1), "Expected level 0"),
        (lambda d, s, p: max([i for i, f in enumerate(d) if s / f > p], default=0), "still fine enough"),
        (lambda d, s, p: levels(d, s, p), "one number"),
    ],
    "2.my_order": [
        (lambda c: np.arange(400), "of the rows are padding"),
        (lambda c: np.sort(c["large"]), "these are the sizes"),
        (lambda c: np.argsort(c["large"])[:-1], "numbers found: 399"),
        (lambda c: np.zeros(400, int), "bag 1 is not in it"),
        (lambda c: np.argsort(c["large"]) / 1, "whole numbers"),
        (lambda c: "small first", "'small first'"),
        (lambda c: np.argsort(c["large"]) + 1, "bag 0 is not in it"),
    ],
    "2.unpack": [
        (lambda X, o: [X[o[i] : o[i + 1]] for i in range(len(o))], "stopped with IndexError"),
        (lambda X, o: [X[a:b] for a, b in zip(o[:-2], o[1:-1], strict=True)], "one offset more"),
        (lambda X, o: [X[a] for a in o[:-1]], "a slice gives several"),
        (lambda X, o: [X[: b - a] for a, b in zip(o[:-1], o[1:], strict=True)], "other rows"),
        (lambda X, o: [X[a : b + 1] for a, b in zip(o[:-1], o[1:], strict=True)], "expected (3, 2)"),
        (lambda X, o: X, "gives 8 bags"),
        (lambda X, o: [X[a:b].tolist() for a, b in zip(o[:-1], o[1:], strict=True)], "expected a tensor"),
        (lambda X, o: X.split(o.tolist()), "stopped with RuntimeError"),
        (lambda X, o: 5, "list of bags"),
        (lambda X, o: [X[a:] for a in o[:-1]], "where the next bag begins"),
    ],
    "2.split_patients": [
        (splitter(lambda p, n, s: np.random.default_rng(s).permutation(len(p))[:n].tolist()), "both sides"),
        (splitter(with_replacement), "without putting one back"),
        (splitter(lambda p, n, s: by_patient(p, n, 0)), "Use the seed"),
        (splitter(lambda p, n, s: by_patient(p, n, None)), "two different splits"),
        (lambda p, n, s: by_patient(p, n, s), "two lists"),
        (splitter(lambda p, n, s: by_patient(p, n + 1, s)), "training, then validation"),
        (splitter(lambda p, n, s: by_patient(p, 1, s)), "validation set with seed 0: 1"),
        (lambda p, n, s: (np.zeros(8, bool), np.ones(8, bool)), "two lists"),
        (lambda p, n, s: tuple(np.array(part) + 0.4 for part in splitter(by_patient)(p, n, s)), "two lists"),
        (lambda p, n, s: ([], by_patient(p, n, s)), "neither side"),
        (lambda p, n, s: (list(range(8)), by_patient(p, n, s)), "twice"),
        (lambda p, n, s: (["ann"], ["ben"]), "two lists"),
        (splitter(lambda p, n, s: by_patient(["", *p[1:]], n, s) if s % 2 else by_patient(p, n, s)), "Not yet"),
    ],
    "3.my_knob": [
        (lambda c: 0.05, "too near the mean"),
        (lambda c: 20, "too near the maximum"),
        (lambda c: 0, "above 0"),
        (lambda c: -1, "above 0"),
        (lambda c: "1.3", "'1.3'"),
        (lambda c: [1, 2], "several values"),
        (lambda c: c["lse"], "the function lse"),
        (lambda c: 300, "overflows"),
    ],
    "3.softmax": [
        (lambda f: torch.exp(f) / torch.exp(f).sum(), "overflow"),
        (lambda f: torch.exp(f - f.max()), "sum to"),
        (lambda f: f / f.sum(), "exponential"),
        (lambda f: torch.log_softmax(f, 0), "logarithm"),
        (lambda f: torch.softmax(f, 0)[:1], "shape"),
        (lambda f: torch.exp(f), "Divide"),
        (lambda f: torch.full_like(f, 1 / len(f)), "expected [0.09"),
        (lambda f: torch.softmax(f, 1), "stopped with IndexError"),
        (lambda f: (f - f.max()) / (f - f.max()).sum(), "Take the exponential"),
        (lambda f: torch.softmax(-f, 0), "sign turned round"),
        (lambda f: torch.nan_to_num(torch.exp(f) / torch.exp(f).sum()), "overflows"),
        (lambda f: torch.sigmoid(f), "same exponentials"),
    ],
    "3.mean_pool": [
        (lambda X, m: X.mean(1), "padding included"),
        (lambda X, m: (X * m).sum(1) / m.sum(1), "stopped with RuntimeError"),
        (lambda X, m: (X * m[..., None]).mean(1), "divide by all 5 rows"),
        (lambda X, m: (X * m[..., None]).sum(1), "sum of the real"),
        (lambda X, m: (X * m[..., None]).sum(1) / m.sum(), "whole batch"),
        (lambda X, m: X.mean(2), "expected (3, 4)"),
        (lambda X, m: (X * m[..., None]).amax(1), "mean of this bag alone"),
    ],
    "3.masked_softmax": [
        (lambda f, m: torch.softmax(f, 1), "padding of bag 0"),
        (lambda f, m: torch.softmax(f.masked_fill(~m, -torch.inf), 0), "which dimension"),
        (lambda f, m: torch.exp(f) * m / (torch.exp(f) * m).sum(1, keepdim=True), "overflow"),
        (lambda f, m: torch.softmax(f * m, 1) * m, "sum to"),
        (lambda f, m: torch.softmax(f, 1) * m, "Leave padding out before"),
        (lambda f, m: softmax_rows(f, 1) * m / (softmax_rows(f, 1) * m).sum(1, keepdim=True), "over its real patches"),
        (lambda f, m: m / m.sum(1, keepdim=True), "softmax of its real patches"),
        (lambda f, m: torch.softmax(f[m], 0), "Padding stays in place"),
        (lambda f, m: torch.softmax(f.masked_fill(m, -torch.inf), 1), "upside down"),
        (lambda f, m: torch.log_softmax(f.masked_fill(~m, -torch.inf), 1), "no weights yet"),
        (lambda f, m: torch.softmax(f, 1) * m, "Leave padding out"),
    ],
    "3.copies": [
        (lambda c: (2, 0), "upside down"),
        (lambda c: (1, 0), "twice as many"),
        (lambda c: (0.25, 0), "denominator"),
        (lambda c: (0.5, 2), "weighted mean"),
        (lambda c: (0.5, None), "replace both None"),
        (lambda c: ("half", 0), "two names"),
        (lambda c: ([0.5], 0), "several values"),
        (lambda c: (0.5, -0.5), "weighted mean"),
    ],
    "4.my_settings": [
        (lambda c: {"epochs": 40, "lr": 2e-3}, "number to beat is 0.801"),
        (lambda c: {"lr": 1e-3}, "expected epochs"),
        (lambda c: {"epochs": 99, "lr": 1e-3}, "from 1 to 40"),
        (lambda c: [40], "a dictionary"),
        (lambda c: {"epochs": 40, "rate": 1}, "stopped with TypeError"),
        (lambda c: {"epochs": 4.5}, "whole number"),
        (lambda c: {1: 2, "epochs": 40}, "a dictionary"),
        (lambda c: {"epochs": "40"}, "epochs='40'"),
        (lambda c: {"epochs": 0}, "from 1 to 40"),
        (lambda c: {"epochs": 40, "function": 4}, "stopped with TypeError"),
        (lambda c: {"epochs": 40, "lr": -1.0}, "went wrong"),
    ],
    "4.stop_epoch": [
        (lambda v, p: stopping(v, p, before=True), "counted from 0"),
        (lambda v, p: int(np.argmin(v)), "best epoch"),
        (lambda v, p: len(v), "in a row"),
        (lambda v, p: stopping(v, p, slack=1), "one epoch too many"),
        (lambda v, p: 99, "longer than the list"),
        (lambda v, p: float(stopping(v, p)), "found 6.0"),
        (lambda v, p: p, "best loss so far"),
        (lambda v, p: next(i + 1 for i in range(99) if v[i + p] > 9), "stopped with IndexError"),
        (lambda v, p: next((i + 1 for i in range(1, len(v)) if v[i] > v[i - 1]), len(v)), "best loss so far"),
    ],
    "4.accumulated_gradient": [
        (gradient(lambda n, total, batches: 1 / batches), "1/5 and 4/5"),
        (gradient(lambda n, total, batches: 1), "add"),
        (gradient(lambda n, total, batches: n), "how many bags"),
        (gradient(lambda n, total, batches: n / total, clear=lambda model, i: model.zero_grad()), "only the last"),
        (gradient(lambda n, total, batches: n / total, clear=lambda model, i: None), "earlier step"),
        (gradient(lambda n, total, batches: n / total, step=True), "no optimizer step"),
        (lambda model, batches: None, "those from before"),
        (lambda model, batches: model.compute_loss(**batches[0]).backward(), "stopped with AttributeError"),
        (lambda model, batches: model.zero_grad(), "no gradient"),
    ],
    "5.my_threshold": [
        (lambda c: 0.5, "missed tumours"),
        (lambda c: 0.001, "false alarms"),
        (lambda c: 20, "as probabilities are"),
        (lambda c: "low", "'low'"),
        (lambda c: None, "write a number"),
        (lambda c: [0.1, 0.2], "one number"),
    ],
    "5.sensitivity": [
        (lambda y, c: (y & c).sum() / max(c.sum(), 1), "precision"),
        (lambda y, c: (y == c).mean(), "accuracy"),
        (lambda y, c: (y & c).sum(), "how many were found"),
        (lambda y, c: (y & c).mean(), "not by all slides"),
        (lambda y, c: 100 * c[y == 1].mean(), "percent"),
        (lambda y, c: c[y == 1], "one number"),
        (lambda y, c: y[c], "one number"),
        (lambda y, c: c[y == 2].mean(), "divided by zero"),
        (lambda y, c: 1 - c[y == 1].mean(), "was missed"),
        (lambda y, c: c[y == 0].mean(), "false alarms"),
        (lambda y, c: c.mean(), "by how many do you divide"),
    ],
    "5.bootstrap_interval": [
        (bootstrap(fair_draw, (0, 1)), "smallest and largest"),
        (bootstrap(fair_draw, (0.16, 0.84)), "2.5 %"),
        (bootstrap(fair_draw, (0.025, 0.5, 0.975)), "two numbers"),
        (bootstrap(lambda rng, n: (fair_draw(rng, n)[0], fair_draw(rng, n)[0])), "same slides"),
        (bootstrap(lambda rng, n: (fair_draw(rng, n // 4)[0],) * 2), "As many slides"),
        (bootstrap(fair_draw, (0.975, 0.025)), "smaller one first"),
        (bootstrap(lambda rng, n: (np.arange(n),) * 2), "with replacement"),
        (bootstrap(fair_draw, skip=False), "one class only"),
        (bootstrap(lambda rng, n: (rng.choice(n, 100, replace=False),) * 2), "stopped with ValueError"),
        (lambda y, p, n=5: "0.7 to 0.8", "two numbers"),
        (lambda y, p, n=5: auc(y, p), "two numbers"),
        (lambda y, p, n=5: (np.nan, 1), "divided by zero"),
    ],
    "5.paired_p_value": [
        (paired(add=0), "never be 0"),
        (paired(mode="one"), "both directions"),
        (paired(swap=0.02), "Not yet"),
        (paired(pool=True), "do not draw or mix"),
        (lambda y, a, b, n=1: 0.5, "same model twice"),
        (lambda y, a, b, n=1: 3, "above 0 and at most 1"),
        (paired(mode="one by one"), "serves both"),
        (lambda y, a, b, n=1: a - b, "one number"),
    ],
    "6.take_out": [
        (lambda c: [0, 1], "probability is then 0.9"),
        (lambda c: np.array([0.9, 0.2]), "these are scores"),
        (lambda c: [3, 99], "numbered 0 to 7"),
        (lambda c: range(8), "One must stay"),
        (lambda c: [], "no patch is taken out"),
        (lambda c: [3, 5, 1], "more than 2"),
        (lambda c: "all", "numbers of some patches"),
        (lambda c: None, "replace None"),
        (lambda c: np.array([0, 0, 0, 1, 0, 1, 0, 0], bool), "np.flatnonzero"),
        (lambda c: [3.0, 5.0], "not 3.0"),
        (lambda c: [0], "patches taken out: 1"),
    ],
    "6.fair_share": [
        (lambda raw: np.exp(raw - raw.max()) / np.exp(raw - raw.max()).sum(), "number of patches"),
        (lambda raw: np.exp(raw) / np.exp(raw).sum() * len(raw), "overflow"),
        (lambda raw: raw / raw.mean(), "Is it a softmax"),
        (lambda raw: raw * len(raw), "Take the softmax"),
        (lambda raw: raw / raw.sum() * len(raw), "Is it a softmax"),
        (lambda raw: np.nan_to_num(np.exp(raw) / np.exp(raw).sum() * len(raw)), "overflows"),
        (lambda raw: np.exp(raw - raw.max()) * len(raw), "fair share has the value 1"),
        (lambda raw: np.exp(raw - raw.max()) / np.exp(raw - raw.max()).sum() * len(raw) ** 2, "once"),
        (lambda raw: np.ones(len(raw)), "Is it a softmax"),
        (lambda raw: 1.0, "one value for each patch"),
        (lambda raw: raw.softmax(), "stopped with AttributeError"),
    ],
    "6.pointing_game": [
        (lambda s, t: [b[a.argmax()] for a, b in zip(s, t, strict=True)], "one number"),
        (lambda s, t: sum(b[a.argmax()] for a, b in zip(s, t, strict=True)), "how many slides"),
        (lambda s, t: np.mean([b[a.argmax()] == 0 for a, b in zip(s, t, strict=True)]), "miss"),
        (lambda s, t: np.mean([a.argmax() == b.argmax() for a, b in zip(s, t, strict=True)]), "several tumour patches"),
        (lambda s, t: 100 * np.mean([b[a.argmax()] for a, b in zip(s, t, strict=True)]), "percent"),
        (lambda s, t: np.mean(np.array(s) == np.array(t)), "stopped with ValueError"),
        (lambda s, t: 1.0, "expected 0.75"),
        (lambda s, t: 0.75, "expected 0.4"),
        (lambda s, t: np.mean([a.max() > 0.5 for a in s]), "expected 0.4"),
        (lambda s, t: np.mean([a.argmax() in b for a, b in zip(s, t, strict=True)]), "expected 0.4"),
    ],
    "6.find_peaks": [
        (lambda s, c, r: c[peaks(s, c, r)], "coordinates"),
        (lambda s, c, r: s[peaks(s, c, r)], "these are scores"),
        (lambda s, c, r: sorted(peaks(s, c, r)), "best first"),
        (lambda s, c, r: np.argsort(-s), "nearer to each other"),
        (lambda s, c, r: peaks(s, c, r, near=np.less_equal), "stays"),
        (lambda s, c, r: peaks(s, c, r)[:1], "expected [4, 1]"),
        (lambda s, c, r: [], "takes no patch"),
        (lambda s, c, r: 1, "a list of the numbers"),
        (lambda s, c, r: [1, 99], "numbered 0 to 4"),
        (lambda s, c, r: [1, 1, 4], "twice"),
        (lambda s, c, r: s > 0.3, "np.flatnonzero"),
        (lambda s, c, r: [float(i) for i in peaks(s, c, r)], "not 3.0"),
        (lambda s, c, r: [str(i) for i in peaks(s, c, r)], "a list of the numbers"),
    ],
}
VALUES = {*MADE_UP, *FROM_NOTEBOOK, "3.copies"}  # their answers are values, no functions
CASES = [(key, i) for key, cases in WRONG.items() for i in range(len(cases))]


@pytest.mark.parametrize(("key", "i"), CASES, ids=lambda value: str(value))
def test_a_wrong_answer_gets_a_sentence_that_helps(key, i):
    exercise, (answer, said_word) = ALL[key], WRONG[key][i]
    if len(inspect.signature(answer).parameters) == 1 and key in VALUES:
        found, names = answer(context(key)), dict(context(key))
        names |= dict(zip(exercise.writes, found if isinstance(found, tuple) else (found,), strict=True))
        answers = [names[name] for name in exercise.takes]
    else:
        answers = (answer,)
    said = exercise.judge(*answers)
    assert not said.right
    assert said_word in said, said
    assert said.startswith(("Not yet: ", "Your code stopped with ")) and len(said) < 420 and "\n" not in said
    assert "Traceback" not in said and "{" not in re.sub(r"\{.*\}", "", said)


def test_each_exercise_has_five_wrong_answers_and_more():
    assert set(WRONG) == set(ALL)
    assert all(len(cases) >= 5 for cases in WRONG.values())


def test_code_that_stops_is_told_where(tmp_path):
    file = tmp_path / "cell.py"
    file.write_text("def patches_above(fraction, threshold):\n    return fraction[threshold]\n")
    names = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    said = notebook_1.patches_above.judge(names["patches_above"])
    assert "stopped with IndexError" in said and "(line 2: return fraction[threshold])" in said
    assert "Compare the whole array" in said


def test_what_is_no_function_is_told_so():
    assert "expected a function, found int" in notebook_1.patches_above.judge(3)
    assert notebook_1.patches_above.judge(None).startswith("Not yet: expected a function")


def test_a_check_prints_its_sentence_once_and_jupyter_does_not_show_it_again(capsys):
    verdict = notebook_1.patches_above(lambda f, t: int((f > t).sum()))
    assert capsys.readouterr().out == "Right.\n" and verdict == "Right." and verdict.right
    assert verdict._ipython_display_() is None and capsys.readouterr().out == ""


def test_a_fault_of_a_check_itself_is_not_taken_for_the_learners():
    def broken(broken):
        raise ZeroDivisionError

    broken.__module__ = "somewhere.notebook_1"
    with pytest.raises(ZeroDivisionError):
        checks.exercise()(broken).judge(1)


def test_a_check_does_not_depend_on_what_it_was_given_before():
    """A learner's function may change what it gets, and the next check still compares with the right thing."""

    def spoils(X, mask):
        X[~mask] = 0
        weight = mask.unsqueeze(-1)
        return X.sum(1) / weight.sum(1)

    assert ALL["3.mean_pool"].accepts(spoils) and ALL["3.mean_pool"].accepts(spoils)


# The sentences


def used_keys(module):
    """Keys that the code of each check gives to `expect` and `refuse`, with the names of the values filled in."""
    tree = ast.parse(inspect.getsource(module))
    found = {}
    for function in (n for n in tree.body if isinstance(n, ast.FunctionDef)):
        strings = {n.value for n in ast.walk(function) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        found[function.name] = strings
    return found


@pytest.mark.parametrize("notebook", words.NOTEBOOKS)
def test_every_sentence_is_used_and_belongs_to_an_exercise(notebook):
    module = __import__(f"mil_tutorial.exercises.notebook_{notebook}", fromlist=["*"])
    sentences, keys = words.texts(f"notebook_{notebook}")["checks"], used_keys(module)
    assert list(sentences) == [e.name for e in checks.exercises_of(notebook)]
    helpers = set().union(*(keys[name] for name in keys if name not in sentences), set())
    for name, own in sentences.items():
        common = set(words.texts("common")["checks"])
        unused = set(own) - keys[name] - helpers - {"expected", "hint"} - common
        assert not unused, f"{name}: nothing says {unused}"
        assert own["expected"] and own["hint"].endswith((".", "?"))


def test_no_model_answer_stands_in_a_sentence():
    """The sentences say what is wrong, not what to write: no line of a solution is in them."""
    text = "".join(p.read_text(encoding="utf-8") for p in words.FOLDER.rglob("*.yaml"))
    for path in sorted(NOTEBOOKS.glob("0*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if "solution" in cell.metadata.get("tags", []):
                for line in (x.strip() for x in cell.source.splitlines()):
                    formula = line.removeprefix("return ")
                    assert not (formula != line and "(" in formula and formula in text), line


def test_texts_that_are_missing_or_damaged_are_named(tmp_path, monkeypatch):
    from mil_tutorial import DataError

    monkeypatch.setattr(words, "FOLDER", tmp_path)
    with pytest.raises(DataError, match=r"nothing\.yaml"):
        words.texts("nothing", "xx")
    (tmp_path / "xx").mkdir()
    (tmp_path / "xx" / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(DataError, match="no table"):
        words.texts("list", "xx")


def test_the_model_of_a_check_is_the_courses():
    assert ALL["3.copies"].accepts(0.5, 0.0) and issubclass(ABMIL, torch.nn.Module)
