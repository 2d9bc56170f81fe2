# %% [markdown]
# # 5 · Evaluation that one can believe
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mil-tutorial/mil-tutorial/blob/main/notebooks/05-evaluation.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/mil-tutorial/mil-tutorial/main?labpath=notebooks/05-evaluation.ipynb)
#
# **Course: Multiple Instance Learning for whole-slide images** · notebook 5 of 6
#
# | | |
# |---|---|
# | **You will be able to** | score a model on test slides with an interval · choose a threshold without cheating · compare with baselines and over seeds · spot four classic traps |
# | **You need** | notebook 4 (necessary) · accuracy, AUC (helpful) |
# | **Time** | about 50 minutes to read and do |
# | **Measured** | runs in 52 s and takes 0.6 GB of memory, on two CPU cores |
# | **Data** | features of the synthetic slides; a few slides are drawn to look at them |


# %% tags=["setup"]
# Set-up, the same in all six notebooks. It does nothing where the course is installed.
# On Colab it installs what is missing and leaves torch and numpy as they are.
import importlib.util

if importlib.util.find_spec("mil_tutorial") is None:
    import subprocess
    import sys

    source = "mil-tutorial[notebook] @ git+https://github.com/mil-tutorial/mil-tutorial"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# For tissue of patients in place of the synthetic slides, remove the "# " below. It fetches some 1.6 GB on first use.
# import os; os.environ["MIL_TUTORIAL_DATA"] = "camelyon16"

from mil_tutorial import use_style

use_style()

# %% [markdown]
# ## One number is not enough
#
# <!-- instructor, 4 min: Ask: 0.953 on 128 slides. What would 20 other test sets of this size have given? -->
#
# The original tutorial ends with *accuracy 0.953 and F1 0.9375 on 128 test slides* of CAMELYON16 (published there, with
# CONCH v1.5 features). Is a model with 0.93 worse? With 128 slides chance alone moves the accuracy. The picture shows how far:
# we flip a coin that is right with probability 0.953, 128 times, again and again.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

rng = np.random.default_rng(0)
accuracies = rng.binomial(128, 0.953, 5000) / 128
low, high = np.quantile(accuracies, [0.025, 0.975])
fig, ax = plt.subplots(figsize=(7, 2.6))
ax.hist(accuracies, bins=np.arange(0.87, 1.005, 1 / 128), color="#0072B2")
ax.set(
    title=f"The same model on other slides: 95 % between {low:.3f} and {high:.3f}",
    xlabel="accuracy on 128 slides",
    ylabel="times",
)
plt.show()

# %% [markdown]
# *What to see: how wide the histogram is. Two models inside it cannot be told apart by one number.*
#
# ## Train, then score; the test set never chooses
#
# <!-- instructor, 5 min: Say it slowly: the test set is looked at, and never chooses anything. -->

# %%
import copy

from mil_tutorial import ABMIL, fit, make_loader, open_data, predict, split_bags

data = open_data()
train_and_val, test_set = data.bags("train"), data.bags("test")
in_dim = train_and_val[0]["X"].shape[1]


class Diary(list):
    """A logger for `fit` that keeps the weights of every epoch. Trap 2 needs them."""

    def log(self, record):
        self.append((record["val_loss"], copy.deepcopy(self.model.state_dict())))


def train_model(seed, make=ABMIL):
    """One run: its own split, its own weights at the start. Gives the model, its validation loader, its diary."""
    train_set, val_set = split_bags(train_and_val, seed=seed)
    torch.manual_seed(seed)
    model, val_loader, diary = make(in_dim), make_loader(val_set), Diary()
    diary.model = model
    train_loader = make_loader(train_set, data.budget.batch_size, seed=seed)
    fit(model, train_loader, val_loader, epochs=data.budget.epochs(20), progress=False, logger=diary)
    return model, val_loader, diary


model, val_loader, diary = train_model(seed=0)
validation = predict(model, val_loader)
test = predict(model, make_loader(test_set))
print(f"{len(test.names)} test slides, {test.Y.sum()} with tumour; {data.budget}")

# %% [markdown]
# ### Accuracy and F1, by hand
#
# A slide is called tumour if its probability is above a **threshold**. One half is a habit, not a law. We choose the
# threshold on the validation slides, and never on the test slides.

# %%
from mil_tutorial import choose_threshold

threshold = choose_threshold(validation.Y, validation.prob)
called = test.prob > threshold
true_positive = (called & (test.Y == 1)).sum()
false_positive = (called & (test.Y == 0)).sum()
false_negative = (~called & (test.Y == 1)).sum()
true_negative = (~called & (test.Y == 0)).sum()
accuracy = (true_positive + true_negative) / len(test.Y)
f1 = 2 * true_positive / (2 * true_positive + false_positive + false_negative)
print(f"threshold from validation: {threshold:.3f}")
print(f"test/bag/acc: {accuracy:.3f}")
print(f"test/bag/f1:  {f1:.3f}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.2), width_ratios=[1, 1.6])
table = np.array([[true_negative, false_positive], [false_negative, true_positive]])
axes[0].imshow(table, cmap="Blues")
for (i, j), value in np.ndenumerate(table):
    axes[0].text(
        j, i, str(value), ha="center", va="center", fontsize=16, color="white" if value > table.max() / 2 else "black"
    )
axes[0].set(
    title="Confusion matrix",
    xticks=[0, 1],
    xticklabels=["called normal", "called tumour"],
    yticks=[0, 1],
    yticklabels=["normal", "tumour"],
)
for value, color, label in [(0, "#0072B2", "normal slides"), (1, "#D55E00", "tumour slides")]:
    chosen = test.prob[value == test.Y]
    axes[1].scatter(
        chosen, np.random.default_rng(1).uniform(-0.3, 0.3, len(chosen)) + value, color=color, label=label, alpha=0.7
    )
axes[1].axvline(threshold, color="black", lw=1, ls="--", label="threshold")
axes[1].set(title="Every test slide", xlabel="tumour probability", yticks=[], ylim=(-0.6, 2.2))
axes[1].legend(ncols=3, loc="upper center")
plt.show()

# %% [markdown]
# *What to see: on the right every point is a slide. Orange points left of the dashed line are missed tumours.*
#
# ### The finished form: with intervals
#
# `bag_metrics` draws the test slides again and again with replacement, within each class (the **bootstrap**), and reports where
# 95 % of the results lie. Two exceptions: with few slides the bootstrap of the AUC is too narrow, so its interval is DeLong's; and
# where accuracy, sensitivity or specificity is 0 or 1, the bootstrap sees no chance at all, so the exact binomial interval is given.

# %%
from mil_tutorial import bag_metrics

metrics = bag_metrics(test.Y, test.prob, threshold=threshold)
for name, estimate in metrics.items():
    print(f"{name:18s} {estimate}")
assert abs(metrics["accuracy"].value - accuracy) < 1e-9 and abs(metrics["f1"].value - f1) < 1e-9

# %% [markdown]
# ## Compared with what?
#
# <!-- instructor, 6 min: Max pooling wins against ABMIL here. That is no accident of the notebook, and a good discussion. -->
#
# A score means little alone. Three comparisons: always say "normal" (the *majority*); the mean of the patches; the best single patch.
# And several seeds each, because the split and the first weights are luck, too. We compare **AUCs**: of all pairs of a tumour and a
# normal slide, the share in which the tumour slide has the higher score.
#
# > **Predict:** which of the three comes closest to ABMIL?

# %%
from mil_tutorial import MaxPool, MeanPool


def auc(y, prob):
    """Share of pairs (tumour, normal) in the right order; a tie counts one half."""
    return np.mean(np.sign(prob[y == 1][:, None] - prob[y == 0]) / 2 + 0.5)


SEEDS = data.budget.seeds(5)
results, runs, probs = {"majority": [0.5] * len(SEEDS)}, {("ABMIL", 0): (model, val_loader, diary)}, {}


def several_seeds(title, make):
    """AUCs of some runs; what is trained once is not trained again."""
    for seed in SEEDS:
        if (title, seed) not in runs:
            runs[title, seed] = train_model(seed, make)
        probs[title, seed] = predict(runs[title, seed][0], make_loader(test_set)).prob
    aucs = results[title] = [auc(test.Y, probs[title, seed]) for seed in SEEDS]
    print(f"{title:13s} AUC over {len(aucs)} seeds: {np.mean(aucs):.3f}, from {min(aucs):.3f} to {max(aucs):.3f}")


several_seeds("mean pooling", MeanPool)
several_seeds("max pooling", MaxPool)

# %%
several_seeds("ABMIL", ABMIL)

# %%
fig, ax = plt.subplots(figsize=(7, 2.8))
for i, (title, aucs) in enumerate(results.items()):
    ax.scatter(aucs, [i] * len(aucs), color="#0072B2", alpha=0.7)
    ax.plot([np.mean(aucs)] * 2, [i - 0.3, i + 0.3], color="#D55E00", lw=3)
means = {title: np.mean(aucs) for title, aucs in results.items() if title != "majority"}
ax.set(
    title=", ".join(f"{title} {value:.3f}" for title, value in sorted(means.items(), key=lambda m: -m[1])),
    xlabel="AUC on the test slides",
    yticks=range(len(results)),
    yticklabels=list(results),
)
plt.show()

# %% [markdown]
# *What to see: a point is one seed, the orange line their mean. If the points of two rows mix, do not claim that one is better. If
# they do not mix, the seeds agree, but the luck of these few slides is still there: all seeds share it. That takes the paired test below.*
#
# Look at max pooling. On these synthetic slides a single patch can give the tumour away, and that is all that max pooling
# needs. It is a fact about how these slides are drawn, and no reason to expect the same of real ones. (Notebook 4 compared on a
# few validation slides, which cannot rank models.) Why then build ABMIL? It does not have to be told whether one patch decides or
# many: it learns the weights. Whether that pays is a question for your own validation slides.
#
# ### Is the difference real? A paired test
#
# Both models see the **same slides**, and hard slides are hard for both. A paired test uses that. It asks: if the two models'
# answers were swapped slide by slide at random, how often would the difference be as large?

# %%
from mil_tutorial import compare_models, summarize_seeds

other, other_val, _ = runs["mean pooling", 0]
other_test = predict(other, make_loader(test_set))
found = compare_models(
    test.Y, test.prob, other_test.prob, threshold, choose_threshold(validation.Y, predict(other, other_val).prob)
)
print(f"AUC of ABMIL minus AUC of mean pooling, seed 0: {found.difference}, p = {found.p_auc:.3f}")
print(f"correct for only one model (McNemar): p = {found.p_calls:.3f}")

# %% [markdown]
# Two questions, and they may have two answers: does the *order* of the slides differ (the AUC), do the *calls* at our thresholds differ
# (McNemar)? Decide which one you report **before** you look at the numbers. A p above 0.05 does not say "equal"; it says "not shown".
#
# ### Trap 1: the one lucky seed
#
# "We report our best run." Several runs of one recipe, and what one would write about each:

# %%
aucs = [bag_metrics(test.Y, probs["ABMIL", seed])["auc"] for seed in SEEDS]  # the runs from above
print("each run:    ", "  ".join(str(a) for a in aucs))
print(f"best seed:    {max(a.value for a in aucs):.3f}")
print("all together:", summarize_seeds(aucs))

# %% [markdown]
# Two kinds of luck: the **deviation over seeds** is the luck of training; the interval is the luck of which slides the test
# set holds. Report both. The second is usually the larger one, and no number of seeds makes it smaller. `benchmarks/camelyon16.py`
# prints both for the official test slides of CAMELYON16, beside published results.
#
# ## Who is missed?
#
# <!-- instructor, 5 min: Look at the pictures before the table. All misses are small lesions. -->

# %%
missed = [(name, prob) for name, prob, y in zip(test.names, test.prob, test.Y) if y == 1 and prob <= threshold]
print(f"{len(missed)} of {test.Y.sum()} tumour slides are missed:", [f"{name} ({prob:.2f})" for name, prob in missed])

reference = data.reference  # lesion size of each slide, where it is known
if reference is not None:
    size = reference.set_index("wsi_name")["lesion_size"]
    for kind in ["itc", "micro", "macro"]:
        of_kind = np.array([size.get(name) == kind for name in test.names])
        if of_kind.any():
            print(f"{kind:6s} found {int(called[of_kind].sum())} of {of_kind.sum()}")
    from mil_tutorial import metrics_by_group

    groups = reference.set_index("wsi_name").get("scanner")
    if groups is not None:
        for scanner, m in metrics_by_group(
            test.Y, test.prob, [groups.get(n, "unknown") for n in test.names], threshold
        ).items():
            print(f"scanner {scanner}: AUC {m['auc']}, accuracy {m['accuracy']}")

# %% [markdown]
# Numbers do not show *why*. We look at a missed slide, and at the place where its tumour is:

# %%
from mil_tutorial import label_patches, open_slide, read_overview, read_patch, show_images
from mil_tutorial.trident import read_patches

if missed:
    name = missed[0][0]
    slide = open_slide(data.slide_path(name))
    patches = read_patches(data.trident_dir / "patches" / f"{name}_patches.h5")
    side = patches.geometry.patch_size_level0
    share = label_patches(data.mask_path(name), patches.coords, side).fraction
    x, y = patches.coords[share.argmax()].tolist()
    factor = max(slide.dimensions) / 800
    axes = show_images(
        [read_overview(slide, factor), read_patch(slide, x, y, side, 500)],
        [f"{name}: missed", f"its patch with most tumour: {share.max():.0%}"],
        width=12,
    )
    axes[0].add_patch(plt.Rectangle((x / factor, y / factor), side / factor, side / factor, fill=False, lw=2))
    with open_slide(data.mask_path(name)) as mask:
        tumour = np.array(mask.read_region((x, y), 0, (side, side)))[:, :, 0] == 2
    axes[1].contour(
        tumour[:: max(1, side // 500), :: max(1, side // 500)][:500, :500], levels=[0.5], colors="#E69F00", linewidths=2
    )
    plt.show()

# %% [markdown]
# *What to see: the square on the left marks the patch on the right; the orange line there is the tumour's edge in the mask. Tumour cells
# have larger, paler nuclei than lymphocytes, but so have the cells in the middle of a healthy follicle. A few of them in one patch
# among dozens are easy to miss, for a model and for people.*
#
# ## Does 0.9 mean 0.9? Calibration
#
# <!-- instructor, 6 min: Common mistake: believing that a good AUC means good probabilities. -->
#
# Of all slides whose predicted probability is 0.9, nine of ten should have tumour. A **reliability plot** shows
# whether that is so. Networks that are trained too far say 0.999 too easily. We do it on purpose: steps four times as large, and the
# last epoch instead of the best.
#
# The remedy is one number, the **temperature** $T$: divide the logit by it. It is chosen on validation slides. The order of the
# slides, and with it the AUC, stays.

# %%
from mil_tutorial import fit_temperature, reliability, scale_by_temperature

before, after, temperatures, pooled = [], [], [], {"before": [], "after": [], "Y": []}
for seed in SEEDS:
    fit_part, val_part = split_bags(train_and_val, seed=seed, val_fraction=0.35)
    torch.manual_seed(seed)
    sure = ABMIL(in_dim)
    fit(
        sure,
        make_loader(fit_part, data.budget.batch_size, seed=seed),
        None,
        lr=2e-3,
        epochs=data.budget.epochs(20),
        progress=False,
    )
    on_val, on_test = predict(sure, make_loader(val_part)), predict(sure, make_loader(test_set))
    temperatures.append(fit_temperature(on_val.Y, on_val.prob))
    scaled = scale_by_temperature(on_test.prob, temperatures[-1])
    before.append(bag_metrics(on_test.Y, on_test.prob, n_bootstrap=0))
    after.append(bag_metrics(on_test.Y, scaled, n_bootstrap=0))
    for key, value in [("before", on_test.prob), ("after", scaled), ("Y", on_test.Y)]:
        pooled[key].append(value)
print("temperatures:", [f"{t:.1f}" for t in temperatures])
for key in ["calibration_error", "brier", "auc"]:
    print(
        f"{key:18s} before {np.mean([m[key].value for m in before]):.3f}   after {np.mean([m[key].value for m in after]):.3f}"
    )

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.8), sharey=True)
for ax, key, title in [(axes[0], "before", "Trained too far"), (axes[1], "after", "With temperature")]:
    bins = reliability(np.concatenate(pooled["Y"]), np.concatenate(pooled[key]), bins=8)
    ax.plot([0, 1], [0, 1], color="#999999", lw=1, ls="--")
    ax.scatter(bins["prob"], bins["frequency"], s=4 * bins["n"], color="#0072B2", alpha=0.7)
    ax.set(title=title, xlabel="predicted probability", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), aspect="equal")
axes[0].set_ylabel("fraction with tumour")
plt.show()

# %% [markdown]
# *What to see: a point is a bin of slides, its size their number, all runs together. On the dashed line the
# stated probability is right. Left: nearly all slides sit at 0 or 1, and some of them are wrong. Right: with temperatures
# above 1 answers move inwards, where the doubt is.*
#
# Look at the temperatures. One **below** 1 makes a run even more certain: its few validation slides held no error, so nothing told it to
# doubt. A temperature is an estimate, too, and a small validation set gives a poor one.
#
# With such a model a **threshold of 0.5** is a habit without a reason. Scaling does not move an answer over 0.5. If the two
# kinds of error cost differently, choose the threshold for that, on validation slides.
#
# ## Trap 2: the test set chooses the epoch
#
# <!-- instructor, 5 min: Everyone has done this once. Ask for hands. -->
#
# It is tempting: score the test set after every epoch, and report the best. How much does that flatter? The runs from above
# kept their weights after every epoch, so both numbers can be had from the same runs. [DSMIL's repository](https://github.com/binli123/dsmil-wsi) reports two numbers for CAMELYON16: 0.961 in
# cross-validation, where epoch and threshold are picked on the fold that is scored, and 0.915 on a fifth of its own slides that were
# kept apart (a vote of five models; not the official test set).
#
# > **Predict:** how large is the gap with so few test slides: 0.00, 0.02 or 0.10?

# %%
honest, tempting = [], []
again, truth = ABMIL(in_dim), test.Y == 1
for seed in SEEDS:
    rows = []
    for val_loss, weights in runs["ABMIL", seed][2]:
        again.load_state_dict(weights)
        prob = predict(
            again, make_loader(test_set)
        ).prob  # what one must not do: look at the test slides in every epoch
        best = max(((prob > t) == truth).mean() for t in np.unique(prob))
        rows.append((val_loss, ((prob > 0.5) == truth).mean(), best))
    honest.append(min(rows)[1])  # the epoch of the smallest validation loss
    tempting.append(max(row[2] for row in rows))
difference = np.subtract(tempting, honest)
print(f"honest: epoch from validation, threshold 0.5:     accuracy {np.mean(honest):.3f}")
print(f"tempting: best epoch and threshold on the test set: {np.mean(tempting):.3f}")
print(f"gap {difference.mean():.3f}, from {difference.min():.3f} to {difference.max():.3f} over {len(SEEDS)} seeds")
assert (difference >= 0).all()  # it cannot be negative: the test set was asked

# %% [markdown]
# ## Trap 3: patches of one slide on both sides
#
# <!-- instructor, 5 min: The gap here has an interval. Ask what it would be with 20 patients. -->
#
# Someone trains on **patches**, each with its slide's label, and splits the *patches* at random. Then patches of one slide lie in
# training and in test. A classifier can know the slide by its stain, and need not know tumour. To see the leak alone, we give
# the slides **random labels**. Nothing can be learnt then, and an honest accuracy is one half.

# %%
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from sklearn.neighbors import KNeighborsClassifier

take = np.random.default_rng(0)
count = min(len(train_and_val), 60)
bags = (train_and_val[i]["X"] for i in range(count))  # one at a time: all at once may not fit into memory
chosen = [X[torch.from_numpy(take.permutation(len(X))[:20])] for X in bags]
features, slide_of = torch.cat(chosen).numpy(), np.repeat(np.arange(count), [len(c) for c in chosen])
lots = [take.permutation(np.arange(count) % 2) for _ in range(8)]  # a label for each slide, eight times

leak = {}
for title, splitter in [("patches at random", ShuffleSplit), ("whole slides", GroupShuffleSplit)]:
    splits = splitter(len(lots), test_size=0.3, random_state=0)
    groups = slide_of if splitter is GroupShuffleSplit else None
    leak[title] = []
    for lot, (train_index, test_index) in zip(lots, splits.split(features, groups=groups)):
        label_of = lot[slide_of]  # each patch has its slide's label
        classifier = KNeighborsClassifier(5).fit(
            features[train_index], label_of[train_index]
        )  # the five most similar vote
        leak[title].append(classifier.score(features[test_index], label_of[test_index]))
    print(f"{title:18s} accuracy {np.mean(leak[title]):.3f}")
gap = np.array(leak["patches at random"]) - np.array(leak["whole slides"])
again = [np.mean(take.choice(gap, len(gap))) for _ in range(2000)]
low, high = np.quantile(again, [0.025, 0.975])
print(f"what the leak adds: {gap.mean():.3f}, 95 % interval over splits {low:.3f} to {high:.3f}")

# %% [markdown]
# Same classifier, same patches, same labels. Only the split differs, and one of them finds something where there is nothing. On
# real slides, whose stains differ more than those of our two made-up scanners, expect more of it. **Split by slide,
# and if a patient has several slides, by patient.**
#
# ## Trap 4: accuracy when one class is rare
#
# <!-- instructor, 3 min: Two minutes are enough. -->
#
# If 5 of 100 slides have tumour, "always normal" is right 95 times. Balanced accuracy, the mean of sensitivity and
# specificity, gives it one half:

# %%
rare = np.array([1] * 5 + [0] * 95)
nothing = bag_metrics(rare, np.zeros(100), threshold=0.5, n_bootstrap=0)
print(
    f"always 'normal': accuracy {nothing['accuracy'].value:.2f}, balanced accuracy {nothing['balanced_accuracy'].value:.2f}"
)

# %% [markdown]
# ## In scikit-learn and torchmil
#
# torchmil leaves metrics to others. Ours are computed for all bootstrap draws at once, which scikit-learn cannot do; the values
# are scikit-learn's.

# %%
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

assert np.isclose(metrics["auc"].value, roc_auc_score(test.Y, test.prob)) and np.isclose(
    metrics["auc"].value, auc(test.Y, test.prob)
)
assert np.isclose(metrics["accuracy"].value, accuracy_score(test.Y, called))
assert np.isclose(metrics["f1"].value, f1_score(test.Y, called))
print("equal to scikit-learn's")

# %% [markdown]
# ## What can go wrong
#
# - **One class only** in a small test set: the AUC is not defined. `bag_metrics` says NaN, and not a number that looks good.
# - **Scores that are NaN**: an error, and not a silent zero.

# %%
print("AUC with one class:", bag_metrics([1, 1, 1], [0.2, 0.8, 0.9], n_bootstrap=0)["auc"].value)
try:
    bag_metrics([0, 1], [0.2, float("nan")])
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# ## Exercises
#
# <!-- instructor, 11 min: Exercise 2 in pairs. Exercise 3 is homework in the three-hour plan. -->
#
# **Exercise 1 (★).** Write `sensitivity(y, called)`: which share of the tumour slides was called tumour?
#
# <details><summary>Hint</summary>Look only where <code>y == 1</code>.</details>


# %% tags=["exercise"]
def sensitivity(y, called): ...  # write your code here


# %% tags=["check"]
def check_sensitivity(function):
    for y, c, right in [
        ([1, 1, 0], [1, 0, 1], 0.5),
        ([0, 1, 1, 1], [0, 1, 1, 1], 1.0),
        ([1, 1, 0, 0], [1, 0, 1, 1], 0.5),
        ([1, 0], [0, 0], 0.0),
    ]:
        answer = function(np.array(y), np.array(c))
        if answer is None:
            return "Not yet: the function returns nothing."
        if not abs(answer - right) <= 1e-6:
            return f"Not yet: for y = {y} and called = {c} it gives {answer}, expected {right}."
    return "Right."


print(check_sensitivity(sensitivity))


# %% tags=["solution"]
# @title Solution of exercise 1
def sensitivity(y, called):
    return (called[y == 1] == 1).mean()


assert check_sensitivity(sensitivity) == "Right.", check_sensitivity(sensitivity)
assert np.isclose(sensitivity(test.Y, called), metrics["sensitivity"].value)
print(f"{sensitivity(test.Y, called):.3f}")

# %% [markdown]
# **Exercise 2 (★★).** Write `bootstrap_interval(y, prob, n=500)`: the 95 % interval of the AUC by drawing slides with replacement.
#
# <details><summary>Hint</summary><code>rng.integers(len(y), size=len(y))</code> draws with replacement, and <code>auc</code> from above is fast. Skip a draw that holds one class only.</details>


# %% tags=["exercise"]
def bootstrap_interval(y, prob, n=500): ...  # write your code here


# %% tags=["check"]
from mil_tutorial import auc_interval


def check_bootstrap(function):
    rng = np.random.default_rng(3)
    y = np.tile([0, 1], 100)
    prob = y + rng.normal(0, 1, 200)
    answer, known = function(y, prob), auc_interval(y, prob)
    if answer is None:
        return "Not yet: the function returns nothing."
    if np.shape(answer) != (2,):
        return f"Not yet: it gives {answer!r:.80}, expected two numbers, low and high."
    low, high = answer
    if not low < known.value < high:
        return f"Not yet: for 200 made-up slides the interval {low:.3f} to {high:.3f} does not hold the AUC {known.value:.3f}."
    ratio = (high - low) / (known.high - known.low)
    if not 0.88 < ratio < 1.18:
        return (
            f"Not yet: for 200 made-up slides the interval is {ratio:.2f} times as wide as DeLong's, expected about 1. As many slides in each"
            " draw as there are? The 2.5 % and 97.5 % points, not the smallest and largest value?"
        )
    return "Right."


print(check_bootstrap(bootstrap_interval))


# %% tags=["solution"]
# @title Solution of exercise 2
def bootstrap_interval(y, prob, n=500):
    rng = np.random.default_rng(0)
    values = []
    while len(values) < n:
        pick = rng.integers(len(y), size=len(y))
        if 0 < y[pick].sum() < len(y):
            values.append(auc(y[pick], prob[pick]))
    return np.quantile(values, [0.025, 0.975])


assert check_bootstrap(bootstrap_interval) == "Right.", check_bootstrap(bootstrap_interval)
print("AUC between {:.3f} and {:.3f}".format(*bootstrap_interval(test.Y, test.prob)))

# %% [markdown]
# **Exercise 3 (★★★).** Two models scored the same slides. Write `paired_p_value(y, prob_a, prob_b, n=500)`: if both models were equally good, how often
# would the difference of their AUCs be at least as large as the one we see? Swap the two answers of a slide at random, for each slide
# by itself, and compare; count the true arrangement among the draws, so that the answer is never 0.
#
# <details><summary>Hint</summary><code>swap = rng.random(len(y)) &lt; 0.5</code>, then <code>np.where(swap, prob_b, prob_a)</code> and the other way round. The answer is <code>(1 + hits) / (1 + n)</code>. Differences count in both directions.</details>


# %% tags=["exercise"]
def paired_p_value(y, prob_a, prob_b, n=500): ...  # write your code here


# %% tags=["check"]
def check_paired(function):
    rng = np.random.default_rng(1)
    y = np.tile([0, 1], 30)
    good, bad = y + rng.normal(0, 0.4, 60), rng.random(60)
    rng = np.random.default_rng(1)
    hard = y + rng.normal(0, 1.2, 60)  # slides that are hard for both: only a paired test sees the small gain
    better, base = hard + 0.125 * (2 * y - 1) + rng.normal(0, 0.05, 60), hard + rng.normal(0, 0.05, 60)
    rng = np.random.default_rng(3)
    one, other = y + rng.normal(0, 1, 60), y + rng.normal(0, 1.3, 60)
    for what, a, b, low, high in [("the same model twice", good, good, 0.99, 1.0), ("a good and a blind model", good, bad, 1e-9, 0.02),
                                  ("a blind and a good model", bad, good, 1e-9, 0.02),
                                  ("two models with the same hard slides", better, base, 1e-9, 0.03),
                                  ("two models of similar quality", one, other, 0.45, 0.8)]:  # fmt: skip
        answer = function(y, a, b)
        if answer is None:
            return "Not yet: the function returns nothing."
        if answer == 0:
            return "Not yet: p must never be 0. Count the true arrangement among the draws."
        if not low <= answer <= high:
            return f"Not yet: for {what} it gives p = {answer:.3f}, expected {low:.2g} to {high:.2g}."
    return "Right."


print(check_paired(paired_p_value))


# %% tags=["solution"]
# @title Solution of exercise 3
def paired_p_value(y, prob_a, prob_b, n=500):
    rng = np.random.default_rng(0)
    seen = abs(auc(y, prob_a) - auc(y, prob_b))
    hits = 0
    for _ in range(n):
        swap = rng.random(len(y)) < 0.5
        a, b = np.where(swap, prob_b, prob_a), np.where(swap, prob_a, prob_b)
        hits += abs(auc(y, a) - auc(y, b)) >= seen
    return (1 + hits) / (1 + n)


assert check_paired(paired_p_value) == "Right.", check_paired(paired_p_value)
print("a model against itself: p =", paired_p_value(test.Y, test.prob, test.prob))

# %% [markdown]
# ## Recap
#
# - Report a number **with its interval**, and the spread over seeds apart from it.
# - **Validation** chooses epoch and threshold; test slides choose nothing.
# - Compare with **baselines**; look at the slides that were missed.
#
# ### Quiz
#
# 1. *The interval of model A is 0.90 to 0.97, that of B 0.88 to 0.96. Is A better?*
#    <details><summary>Answer</summary>These numbers do not show it. Compare both on the same slides, pair by pair.</details>
# 2. *Why do we resample slides and not patches?*
#    <details><summary>Answer</summary>Slides are what a new hospital brings. Patches of one slide are not independent, and intervals from them are far too narrow.</details>
# 3. *May you look at missed test slides and then change the model?*
#    <details><summary>Answer</summary>You may look. But after a change made because of them, these slides are no test any more.</details>
# 4. *Accuracy is 0.95, and 95 % of the slides are normal. What do you know?*
#    <details><summary>Answer</summary>Nothing yet. A model that says "normal" to everything reaches that, too. Look at sensitivity, specificity and AUC.</details>
# 5. *Temperature scaling: does it change the AUC?*
#    <details><summary>Answer</summary>No. All logits are divided by one positive number, so their order stays. It changes how far from 0.5 the probabilities are.</details>
#
# ### References
#
# - C. Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017, [arXiv:1706.04599](https://arxiv.org/abs/1706.04599).
# - E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, *Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves*, Biometrics 44 (1988), [doi:10.2307/2531595](https://doi.org/10.2307/2531595).
# - L. Maier-Hein et al., *Metrics reloaded: recommendations for image analysis validation*, Nature Methods 21 (2024), [doi:10.1038/s41592-023-02151-z](https://doi.org/10.1038/s41592-023-02151-z).
# - S. Kapoor, A. Narayanan, *Leakage and the reproducibility crisis in machine-learning-based science*, Patterns 4 (2023), [doi:10.1016/j.patter.2023.100804](https://doi.org/10.1016/j.patter.2023.100804).
#
# **Next:** notebook 6 asks where in the slide the model looked.

# %% tags=["result"]
print(
    f"Key result: test AUC {metrics['auc']}, accuracy {accuracy:.3f}, F1 {f1:.3f}; over seeds AUC {np.mean(results['ABMIL']):.3f}, mean pooling {np.mean(results['mean pooling']):.3f}"
)
