# %% [markdown]
# # 6 · Where is the metastasis?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mil-tutorial/mil-tutorial/blob/main/notebooks/06-metastasis-localization.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/mil-tutorial/mil-tutorial/main?labpath=notebooks/06-metastasis-localization.ipynb)
#
# **Course: Multiple Instance Learning for whole-slide images** · notebook 6 of 6
#
# | | |
# |---|---|
# | **You will be able to** | turn attention into a heatmap that can be compared between slides · test whether a map shows what the model uses · ask counterfactual slides how small a lesion may be · measure localization by FROC · explore a slide in a viewer and in QuPath |
# | **You need** | notebooks 3 and 5 (necessary) · notebook 1 (helpful) |
# | **Time** | about 65 minutes to read and do |
# | **Measured** | runs in 23 s and takes 0.7 GB of memory, on two CPU cores |
# | **Data** | features of the synthetic slides; two slides and the tumour masks of the test set are drawn |


# %% tags=["setup"]
# Set-up, the same in all six notebooks. It does nothing where the course is installed.
# On Colab it installs what is missing and leaves torch and numpy as they are.
import importlib.util
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads sleep: other programs may work beside the course
if importlib.util.find_spec("mil_tutorial") is None:
    import subprocess
    import sys

    source = "mil-tutorial[notebook] @ git+https://github.com/mil-tutorial/mil-tutorial"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# For tissue of patients in place of the synthetic slides, remove the "# " below. It fetches some 1.6 GB on first use.
# os.environ["MIL_TUTORIAL_DATA"] = "camelyon16"

from mil_tutorial import use_style

use_style()

# %% [markdown]
# ## Attention, laid on the slide
#
# <!-- instructor, 5 min: Let them praise the picture. The next section takes it apart. -->
#
# The model was trained with one label for each slide. Nobody told it where the tumour is. But its attention says where it looked.
# We train it as in notebook 5, with a diary of every epoch, and take the test slide with the most tumour.

# %%
import copy
import functools

import matplotlib.pyplot as plt
import numpy as np
import torch

from mil_tutorial import ABMIL, fit, make_loader, open_data, predict, split_bags

data = open_data()
dataset = data.bags("train", keys=["X", "Y", "y_inst"])  # y_inst only to measure: training sees X and Y
test_set = data.bags("test", keys=["X", "Y", "y_inst"])
test_loader = make_loader(test_set)


# %%
class Features(dict):
    """name -> features of a test slide, read when asked for; of large bags only the last few are kept."""

    def __missing__(self, name):
        if data.budget.large and len(self) > 3:
            del self[next(iter(self))]
        self[name] = test_set[test.names.index(name)]["X"]
        return self[name]


X = Features()


class Diary(list):
    """A logger for `fit` that keeps the weights of every epoch."""

    def log(self, record):
        self.append(copy.deepcopy(self.model.state_dict()))


# %%
def train_model(seed, make=ABMIL, bags=dataset):
    """One run, as in notebook 5: the model and its diary."""
    train_part, val_part = split_bags(bags, seed=seed)
    torch.manual_seed(seed)
    model, diary = make(dataset[0]["X"].shape[1]), Diary()
    diary.model = model
    loaders = make_loader(train_part, data.budget.batch_size, seed=seed), make_loader(val_part)
    fit(model, *loaders, epochs=data.budget.epochs(20), progress=False, logger=diary)
    return model.cpu(), diary


model, diary = train_model(seed=0)
_, val_set = split_bags(dataset, seed=0)
test = predict(model, test_loader)
y_inst = {name: test_set[i]["y_inst"].numpy() for i, name in enumerate(test.names)}
attention = dict(zip(test.names, test.attention))  # raw attention of each slide's patches
probability = dict(zip(test.names, test.prob))
tumor_slides = [name for name, y in zip(test.names, test.Y) if y == 1]
normal_slides = [name for name, y in zip(test.names, test.Y) if y == 0]

# %%
from mil_tutorial import draw_heatmap, open_slide, read_canvas, show_images


px = data.budget.px  # of a patch on the canvas


def draw_canvas(name):
    """A slide's patches, and their picture with the row and column of each."""
    patches = test_set.read_patches(name)
    slide = open_slide(data.slide_path(name))
    return patches, *read_canvas(slide, patches.coords, patches.geometry.patch_size_level0, px)


wsi_name = data.example  # the test slide with the most tumour
patches, canvas, rows, columns = draw_canvas(wsi_name)
f = attention[wsi_name]
min_max = (f - f.min()) / (f.max() - f.min())  # what the original tutorial draws; `scale_min_max` in the package
truth = draw_heatmap(canvas, (y_inst[wsi_name] == 1).astype(float), rows, columns, px)
prediction = draw_heatmap(canvas, min_max, rows, columns, px)
show_images([truth, prediction], [f"{wsi_name}: ground truth", "attention, scaled from smallest to largest"], width=13)
plt.show()
print(f"tumour probability of {wsi_name}: {probability[wsi_name]:.2f}")

# %% [markdown]
# *What to see: on the left red patches hold tumour. On the right red patches got much attention. The model found most of the
# tumour, with no label for any patch.*
#
# ## Why that picture misleads
#
# <!-- instructor, 8 min: Put the normal slide with min-max scaling on the wall and ask: where is the tumour? Then the same slide on one scale. -->
#
# > **Predict:** what will a healthy slide look like in this scaling?
#
# Scaling from smallest to largest makes **some patch of every slide red**, even on a healthy slide:

# %% tags=["landing-guilty"]
from mil_tutorial import scale_min_max

normal_name = min(normal_slides, key=probability.get)
normal_patches, normal_canvas, normal_rows, normal_columns = draw_canvas(normal_name)
normal_min_max = scale_min_max(attention[normal_name])
show_images(
    [prediction, draw_heatmap(normal_canvas, normal_min_max, normal_rows, normal_columns, px)],
    [
        f"{wsi_name}: tumour probability {probability[wsi_name]:.2f}",
        f"{normal_name}: tumour probability {probability[normal_name]:.2f}",
    ],
    width=13,
)
plt.show()

# %% [markdown]
# *What to see: the right slide has no tumour, and the model knows it. The picture looks guilty all the same.*
#
# Here are two scores that can be compared between slides. The bag has $n$ patches; $f_i$ is a patch's raw attention, $s_i$ its
# softmax, $\mathbf{x}_i$ its features, and $\mathbf{c}$ are the weights of the classifier:
#
# | score | formula | meaning |
# |---|---|---|
# | attention × n | $n\,s_i$ | 1 is a fair share; 10 means ten times as much as that |
# | contribution | $s_i\,\mathbf{c}^\top \mathbf{x}_i$ | its part of the slide's logit: all parts and the bias add up to the logit |

# %%
from mil_tutorial import attention_times_n


def scores_of(name):
    evidence = X[name] @ model.cpu().classifier.weight[0].detach()
    s = torch.softmax(torch.from_numpy(attention[name]), 0)
    return {
        "contribution": (s * evidence).numpy(),
        "attention x n": attention_times_n(attention[name]),
    }


scores, normal_scores = scores_of(wsi_name), scores_of(normal_name)
logit = scores["contribution"].sum() + model.classifier.bias.item()
print(
    f"sum of contributions + bias = {logit:.3f}; the model's logit is {np.log(probability[wsi_name] / (1 - probability[wsi_name])):.3f}"
)
assert abs(scores["attention x n"].mean() - 1) < 1e-6

# %% [markdown]
# Now both slides with the contribution, on **one colour scale**. White is zero: such a patch does not move the answer.

# %%
limit = max(np.abs(scores["contribution"]).max(), np.abs(normal_scores["contribution"]).max())
pictures = [
    draw_heatmap(c, 0.5 + 0.5 * s["contribution"] / limit, r, k, px, alpha=0.6, cmap="PuOr_r")
    for c, s, r, k in [(canvas, scores, rows, columns), (normal_canvas, normal_scores, normal_rows, normal_columns)]
]
axes = show_images(pictures, [f"{wsi_name}: tumour", f"{normal_name}: normal"], width=13)
bar = plt.colorbar(plt.cm.ScalarMappable(plt.Normalize(-limit, limit), "PuOr_r"), ax=list(axes), shrink=0.8)
bar.set_label("contribution to the logit")
plt.show()

# %% [markdown]
# *What to see: orange speaks for tumour, purple against it. On the left a few patches push the answer up. On the right a few
# patches push it down. Colour-blind readers can read this map, and the bar says what a colour means.*
#
# **Move the scaling.** The same two slides as squares, five times the same model:

# %%
from mil_tutorial import show_slider


def squares(ax, name, values, limits, cmap="Blues"):
    """A slide's patches as coloured squares at their places."""
    places = test_set.read_patches(name)
    column, row = places.coords.T // places.geometry.step_level0
    size = min(1.0, 40 / np.ptp(column), 40 / np.ptp(row)) * 260
    ax.scatter(column, row, c=values, vmin=limits[0], vmax=limits[1], cmap=cmap, marker="s", s=size)
    ax.set(aspect="equal", ylim=(row.max() + 1, row.min() - 1))
    ax.axis("off")


# %%
both = {wsi_name: scores, normal_name: normal_scores}
share = {name: s["attention x n"] for name, s in both.items()}
scalings = {
    "smallest to largest of each slide": ({n: scale_min_max(v) for n, v in share.items()}, (0, 1), "Blues"),
    "rank in each slide": ({n: v.argsort().argsort() / len(v) for n, v in share.items()}, (0, 1), "Blues"),
    "attention x n, dark from 3": (share, (0, 3), "Blues"),
    "attention x n, dark from 10": (share, (0, 10), "Blues"),
    "contribution, one scale": ({n: s["contribution"] for n, s in both.items()}, (-limit, limit), "PuOr_r"),
}
pictures = []
for values, limits, cmap in scalings.values():
    fig, axes = plt.subplots(1, 2, figsize=(9, 3))
    for ax, (name, title) in zip(axes, [(wsi_name, "tumour"), (normal_name, "normal")]):
        squares(ax, name, values[name], limits, cmap)
        ax.set_title(f"{name}: {title}")
    pictures.append(fig)
show_slider(pictures, list(scalings), name="scaling", alt="Maps of a tumour slide and a healthy slide")

# %% [markdown]
# *What to see: whatever is scaled within a slide is as dark on the healthy slide as on the sick one. Only a fixed scale can be
# compared, and only the contribution says which way a patch pushes.*
#
# Which score says best what the model used? That is not a matter of taste: we can test it, and we will. First we compare with the
# truth.
#
# ## Does it find the tumour? Patches
#
# <!-- instructor, 5 min: Unknown patches are left out. Ask what would happen if they counted as normal. -->
#
# A good score ranks tumour patches above the others. There are three measures:
#
# - The **patch AUC** is the share of pairs (tumour patch, other patch) in the right order.
# - The **pointing game** asks: is the highest patch of a slide a tumour patch?
# - **Dice**: if we mark all patches above a threshold, how well do mark and tumour overlap? (0 not at all, 1 perfectly.) The
#   threshold comes from validation slides.
#
# Patches with an unknown label are left out.

# %%
from mil_tutorial import choose_dice_threshold, patch_metrics

rng = np.random.default_rng(0)
for key in ["random", "attention x n", "contribution"]:
    values = [rng.random(len(y_inst[n])) if key == "random" else scores_of(n)[key] for n in tumor_slides]
    aucs = [patch_metrics(y_inst[n], value)["auc"] for n, value in zip(tumor_slides, values)]
    low, high = np.nanquantile([np.nanmean(rng.choice(aucs, len(aucs))) for _ in range(2000)], [0.025, 0.975])
    print(
        f"{key:13s} mean patch AUC over {len(aucs)} tumour slides: {np.nanmean(aucs):.3f}, interval {low:.3f} to {high:.3f}"
    )

# %%
validation = predict(model, make_loader(val_set))
pairs = [(val_set[i]["y_inst"].numpy(), attention_times_n(f)) for i, f in enumerate(validation.attention)]
dice_threshold = choose_dice_threshold(pairs)
per_slide = [patch_metrics(y_inst[n], attention_times_n(attention[n]), dice_threshold) for n in tumor_slides]
patch_auc, hits = (np.nanmean([m[key] for m in per_slide]) for key in ("auc", "pointing"))
print(f"pointing game: right on {hits:.0%} of {len(per_slide)} tumour slides")
print(f"Dice above {dice_threshold:.4f} fair shares (from validation): {np.mean([m['dice'] for m in per_slide]):.2f}")

# %% [markdown]
# The order is nearly right. The highest patch is right on most slides. The marked area is only about half right: a good order is
# not a good outline. Why is the threshold for Dice so far below one fair share? A few patches take nearly all attention, and the
# rest of a large tumour shares what is left. Use this threshold for Dice, not for pictures.
#
# ## Does the map show what the model uses? Deletion and insertion
#
# <!-- instructor, 8 min: The best finding of the course. Let them explain why the orange line climbs back before you do. -->
#
# A map may look right and still not show what the model used. The test is called **deletion**: take away the patches with the
# highest score, one after the other, and ask the model again. If the score is **faithful**, that is, if it shows what the model
# uses, the probability falls at once. **Insertion** is the other way round: put in the highest patches first, and the probability
# should rise at once. The area under the curve says how fast. We compare it with a random order.
#
# We test six scores. Attention, contribution and *gradient × input* come from one pass of the model (`patch_scores`). (Gradient ×
# input asks how the logit changes when the features of a patch change a little.) The other three **ask the model again** with
# changed bags, and each is a few lines:


# %%
def single_patch(x):
    """What does the model say to a bag that holds this patch alone?"""
    with torch.inference_mode():
        return model(x[:, None])  # n bags of one patch: (n, 1, D) -> (n,)


def leave_one_out(x):
    """How much does the logit lose without this patch?"""
    with torch.inference_mode():
        return model(x[None]) - torch.cat([model(torch.cat([x[:i], x[i + 1 :]])[None]) for i in range(len(x))])


def integrated_gradients(x, steps=20):
    """Gradient x input, averaged on the way from an empty bag (all zeros) to this one."""
    total = torch.zeros_like(x)
    for k in range(steps):
        point = ((k + 0.5) / steps * x).requires_grad_()
        total += torch.autograd.grad(model(point[None]).sum(), point)[0]
    return (x * total / steps).sum(1)


# %%
from mil_tutorial import perturbation_scores

bag = X[wsi_name][:300]  # leave one out asks once for each patch: a slide of 20,000 is cut short
package = perturbation_scores(model, bag)  # the finished form, which knows a shorter way for ABMIL
for name, by_hand in [
    ("single patch", single_patch),
    ("leave one out", leave_one_out),
    ("integrated gradients", integrated_gradients),
]:
    assert np.allclose(by_hand(bag).detach(), package[name], atol=1e-4), name
with torch.inference_mode():
    change = (model(bag[None]) - model(torch.zeros_like(bag)[None])).item()
print(f"integrated gradients sum to {package['integrated gradients'].sum():.3f}; the logit changed by {change:.3f}")

# %% [markdown]
# > **Predict:** which curve falls faster, that of attention, which everybody draws, or that of the contribution?

# %%
from mil_tutorial import deletion_insertion, patch_scores

sure = min(0.8, max(probability[n] for n in tumor_slides))  # 0.8, unless the model is that sure of no slide
sure_slides = data.budget.first([n for n in tumor_slides if probability[n] >= sure], 3)
by_asking = ["integrated gradients", "single patch", "leave one out"]
tested = ["attention x n", "gradient x input", "logit contribution", *by_asking]
all_scores = {
    n: patch_scores(model, X[n]) | perturbation_scores(model, X[n], steps=6 if data.budget.large else 20)
    for n in sure_slides
}
curves = {}
for name in sure_slides:
    for key in tested:
        first = key == tested[0]  # the random orders are the same for every score: once is enough
        found = deletion_insertion(model, X[name], all_scores[name][key], steps=15, n_random=5 if first else 1)
        curves[key, name] = found["deletion"], found["insertion"]
        if first:
            curves["random order", name] = found["random deletion"], found["random insertion"]


# %%
def mean_and_interval(values):
    """Mean over slides, with the 95 % interval of drawing slides again."""
    means = [np.mean(rng.choice(values, len(values))) for _ in range(2000)]
    return f"{np.mean(values):.3f} [{np.quantile(means, 0.025):.3f}, {np.quantile(means, 0.975):.3f}]"


print(
    f"{len(sure_slides)} tumour slides that the model calls tumour with at least {sure:.2f}; mean probability while patches go"
)
print(f"{'':22s} {'first third gone':22s} {'whole curve':22s} insertion")
early = {}
for key in [*tested, "random order"]:
    gone, there = zip(*[curves[key, name] for name in sure_slides])
    early[key] = [c.prob[c.share <= 1 / 3].mean() for c in gone]
    parts = [mean_and_interval(values) for values in (early[key], [c.area for c in gone], [c.area for c in there])]
    print(f"{key:22s} {'  '.join(parts)}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.4), sharey=True)
looks = {"attention x n": ("#D55E00", "-"), "leave one out": ("#CC79A7", "-."), "gradient x input": ("#56B4E9", ":")}
looks |= {
    "integrated gradients": ("#009E73", "--"),
    "single patch": ("#0072B2", "-."),
    "logit contribution": ("#000000", "-"),
}
looks["random order"] = ("#BBBBBB", "-")
for side_of, (ax, kind) in enumerate(zip(axes, ["deletion", "insertion"])):
    for key, (color, line) in looks.items():
        prob = np.mean([curves[key, name][side_of].prob for name in sure_slides], axis=0)
        ax.plot(np.linspace(0, 1, len(prob)), prob, color=color, ls=line, lw=2, label=key)
    ax.set(title=kind, xlabel="share of patches " + ("gone" if kind == "deletion" else "there"), ylim=(0, 1.02))
axes[0].set_ylabel("mean tumour probability")
axes[1].legend(loc="lower right")
plt.show()

# %% [markdown]
# *What to see: left, a line that falls early and stays low knows what the model uses. Attention (orange) falls almost as fast as
# the others at first, and then **climbs back**, nearly to where it began. Right, all lines but the grey one lie on top of each
# other near 1: one good patch is enough. So insertion does not tell the scores apart here.*
#
# **Move the share.** One slide, patches taken away in the order of attention:

# %%
name = max(sure_slides, key=lambda n: (y_inst[n] == 1).sum())
curve, order = curves["attention x n", name][0], np.argsort(-all_scores[name]["attention x n"])
pictures, step = [], max(1, len(curve.share) // 12)
for share_gone, prob in list(zip(curve.share, curve.prob))[::step]:
    left_there = np.ones(len(order))
    left_there[order[: round(share_gone * len(order))]] = 0
    fig, (ax, line) = plt.subplots(1, 2, figsize=(9, 2.8))
    squares(ax, name, left_there * (1 + (y_inst[name] == 1)), (0, 2), "Oranges")
    ax.set_title(f"{name}: dark is tumour, white is gone")
    line.plot(curve.share, curve.prob, color="#D55E00")
    line.plot([share_gone], [prob], "o", color="black")
    line.set(xlabel="share of patches gone", ylabel="tumour probability", ylim=(0, 1.02))
    pictures.append(fig)
show_slider(pictures, [f"{s:.0%}" for s in curve.share[::step]], name="patches gone", alt="A slide that loses patches")

# %% [markdown]
# *What to see: where the black dot is when the last dark square has gone, and where it goes after that.*
#
# Back to the figure with all the curves. It is the one to remember, because one number would have misled us. By the whole curve,
# attention looks hardly better than a random order. By the first third it is clearly better: **it finds the first patches that
# matter.**
#
# Why does it climb back? A likely reason: when those patches are gone, the patches that attention cared for least are left, such
# as glass. Attention must go somewhere. But the classifier was never trained on such a bag, and what it says there means little.
# The contribution, single patches and integrated gradients include what the classifier says, so they take away every patch that
# speaks for tumour.
#
# So attention says where the model looks, **not what it concludes**. And the end of a deletion curve asks about slides that do
# not exist.
#
# Leave-one-out fails for another reason. Take one of many tumour patches away, and the others take over, so no patch seems to
# matter.
#
# All this is one model on synthetic slides. In eight more runs (`benchmarks/seeds.py`) the contribution is best again, by the
# whole curve. Attention climbs back nearly as far in two of them, and less in the others. On real slides and several models,
# single patches, integrated gradients and relevance propagation were found to be more faithful than attention and plain
# gradients ([arXiv:2603.08328](https://arxiv.org/abs/2603.08328); see also [xMIL](https://arxiv.org/abs/2406.04280), NeurIPS
# 2024). Which score is best depends on the model: test yours.
#
# ### ★ Change this, beat that number
#
# How many patches must go until the model no longer calls a slide tumour (probability below one half)? We take the slide on which
# attention does worst against the contribution. It is not typical: the second cell also prints on how many slides attention does
# as well.


# %%
def left_over(name, gone):
    """The model's probability for a slide without the patches `gone`."""
    kept = np.setdiff1d(np.arange(len(X[name])), gone)
    with torch.inference_mode():
        return torch.sigmoid(model(X[name][kept][None])).item()


tries = [1, 2, 3, 5, 8, 12, 18, 27, 40] if data.budget.large else range(1, 50)  # of large bags some numbers only


@functools.cache  # what was found once is not looked for again
def fewest(name, key):
    """How many patches must go, the highest first; 50 if fewer do not do."""
    order = np.argsort(-all_scores[name][key]).tolist()
    return next((k for k in tries if k < len(order) and left_over(name, order[:k]) < 0.5), 50)


# %%
need = {n: (fewest(n, "attention x n"), fewest(n, "logit contribution")) for n in sure_slides}
puzzle = max(sure_slides, key=lambda n: need[n][0] - need[n][1] if need[n][0] < 50 else -50)
goal = min(fewest(puzzle, key) for key in tested)
as_few = sum(a <= c < 50 for a, c in need.values())
print(f"attention needs no more patches than the contribution on {as_few} of {len(need)} slides")
print(
    f"{puzzle}: {len(X[puzzle])} patches; in the order of attention {need[puzzle][0]} must go. Can you do it with {goal}?"
)

# %% [markdown]
# **Exercise 1 (★).** Change `take_out` so that `goal` patches are enough. (`goal` is the number that the last cell asks for.)
#
# <details><summary>Hint</summary><code>all_scores[puzzle]</code> holds every score; its names are in <code>tested</code>. Which line in the figure stays low?</details>

# %% tags=["exercise"]
take_out = np.argsort(-all_scores[puzzle]["attention x n"])[:goal]  # change this: another score


# %% tags=["check"]
from mil_tutorial.exercises import notebook_6 as check

check.take_out(take_out, left_over, puzzle, goal, X)

# %% tags=["solution"]
# @title Solution of exercise 1
for key in tested:
    print(f"{key:21s} {fewest(puzzle, key)} patches")
best = min(tested, key=lambda key: fewest(puzzle, key))
take_out = np.argsort(-all_scores[puzzle][best])[:goal]
assert check.take_out.accepts(take_out, left_over, puzzle, goal, X)

# %% [markdown]
# ## Counterfactual slides: what if?
#
# <!-- instructor, 7 min: Take the lesion out: who expects a healthy slide? Then show the four that stay sick. -->
#
# Deletion asks about an order. A doctor asks a plainer question: **if the tumour were not there, would the model say "healthy"?**
# A bag is a set, so we can build **counterfactual** slides, which nobody has scanned: a sick one without its lesion, a healthy
# one with a piece of another slide's tumour. HIPPO does this on real slides
# ([arXiv:2409.03080](https://arxiv.org/abs/2409.03080)). It found models that overlook small tumours although their scores looked
# fine.
#
# First, **we take the lesion out**, in two ways. One takes only the patches that are *labelled* tumour (as a rule, more than half
# of the patch). The other takes all patches with *any* tumour in the mask.

# %%
from concurrent.futures import ThreadPoolExecutor

from mil_tutorial import choose_threshold, label_patches

with ThreadPoolExecutor(2) as pool:  # synthetic masks are drawn now, two at a time
    masks = dict(zip(tumor_slides, pool.map(data.mask_path, tumor_slides)))
side = patches.geometry.patch_size_level0
fraction = {
    n: label_patches(
        masks[n], test_set.read_patches(n).coords, test_set.read_patches(n).geometry.patch_size_level0
    ).fraction
    for n in tumor_slides
}


def ask(net, x):
    """Probability of tumour of one bag (n, D)."""
    with torch.inference_mode():
        return torch.sigmoid(net(x[None])).item()


# %%
from mil_tutorial import MaxPool, MeanPool, bags_in_memory

nets = {"ABMIL": model}
few = bags_in_memory(dataset, patches=data.budget.patches, progress=False)  # all patches, unless bags are large
nets |= {"max": train_model(0, MaxPool, few)[0], "mean": train_model(0, MeanPool, few)[0]}
thresholds = {}
for title, net in nets.items():
    on_val = predict(net, make_loader(val_set))
    t = thresholds[title] = choose_threshold(on_val.Y, on_val.prob)
    found = [n for n in tumor_slides if ask(net, X[n]) > t]
    labelled = [n for n in found if ask(net, X[n][torch.from_numpy(y_inst[n] != 1)]) > t]
    clean = [n for n in found if (fraction[n] == 0).any() and ask(net, X[n][torch.from_numpy(fraction[n] == 0)]) > t]
    print(
        f"{title:5s} finds {len(found)} slides; still tumour without labelled patches: {len(labelled)}, without any tumour: {len(clean)}"
    )
    for n in clean:
        print(f"        {n}: {(fraction[n] == 0).sum()} of {len(X[n])} patches are left")

# %% [markdown]
# There are two surprises. First, without the *labelled* patches most slides that were found are still called tumour. A patch with
# 40 % tumour is labelled "normal", but the model sees its tumour. A patch label is a **threshold**, not the truth.
#
# Second, ABMIL and the mean still call some slides tumour with **no tumour left at all**. On the synthetic slides these are
# slides with a large lesion: less than half of their patches remain. Such a bag is not a healthy slide but a piece of one, and no
# training slide looks like it. Attention adds up to 1, so it must go somewhere, and the classifier has an answer to everything.
# Max pooling is not fooled here. The deletion curve that climbs back is probably the same effect.
#
# Then, **we put a lesion in**: $k$ tumour patches of one slide (the giver) go into each healthy slide (the receiver). From which
# $k$ on does a model find them? The interval is over both givers and receivers.

# %%
ks = [1, 2, 4, 8]
givers = [n for n in tumor_slides if (y_inst[n] == 1).sum() >= max(ks)]  # the same givers for every k
givers, receivers = data.budget.first(givers, 3), data.budget.first(normal_slides, 4)
draw = np.random.default_rng(0)


def share_found(title, k):
    """(givers, receivers) of 0 and 1: is the healthy slide with k patches of the giver called tumour?"""
    called = np.zeros((len(givers), len(receivers)))
    for i, giver in enumerate(givers):
        tumour = torch.from_numpy(np.flatnonzero(y_inst[giver] == 1))
        for j, healthy in enumerate(receivers):
            lesion = X[giver][tumour[torch.from_numpy(draw.permutation(len(tumour))[:k])]]
            called[i, j] = ask(nets[title], torch.cat([X[healthy], lesion])) > thresholds[title]
    return called


def two_way_interval(called, n=500):
    """95 % interval when givers and receivers are drawn again."""
    g, r = called.shape
    means = [called[draw.integers(g, size=g)][:, draw.integers(r, size=r)].mean() for _ in range(n)]
    return np.quantile(means, [0.025, 0.975])


# %%
fig, ax = plt.subplots(figsize=(7, 3.2))
for title, color, line in [("ABMIL", "#D55E00", "-"), ("max", "#0072B2", "--"), ("mean", "#009E73", ":")]:
    if givers:
        parts = [share_found(title, k) for k in ks]
        means = [part.mean() for part in parts]
        low, high = np.transpose([two_way_interval(part) for part in parts])
        ax.plot(ks, means, color=color, ls=line, marker="o", label=title)
        ax.fill_between(ks, low, high, color=color, alpha=0.15)
        words = [f"k={k}: {m:.2f} [{a:.2f}, {b:.2f}]" for k, m, a, b in zip(ks, means, low, high)]
        print(f"{title:5s}", "  ".join(words))
ax.set(xscale="log", xlabel="tumour patches put into a healthy slide", ylabel="share found", ylim=(0, 1.03))
ax.set_xticks(ks, ks)
ax.minorticks_off()
ax.set_title(f"The smallest lesion that is found: {len(givers)} givers, {len(receivers)} receivers")
ax.legend()
plt.show()

# %% [markdown]
# *What to see, on the synthetic slides: if a line is high at the left, the model finds small lesions. A patch is a quarter of a
# millimetre wide, so one patch is a small micrometastasis. Of the lesions of one patch, max finds nearly all and ABMIL about nine
# in ten. Both find all lesions of two patches. The mean needs about eight, because it divides the lesion by the size of the
# slide. (An interval from 1.00 to 1.00 only says that there was no miss in our few pairs.)*
#
# That sounds better than it is. The patches come from large lesions and are mostly tumour. Some come from the other scanner, and
# four givers are few. The slides that are *missed* (notebook 5) have isolated cells: a few per cent of a patch. A curve over
# **patches** says nothing about lesions that are smaller than a patch.
#
# ## Would another run draw the same map? Seeds and epochs
#
# <!-- instructor, 4 min: One picture is one opinion. -->
#
# We ask one figure two questions. Does attention settle **within** a run, from epoch to epoch? And do **other seeds** settle on
# the same order? We compare the order of the patches by **rank correlation**: 1 is the same order, 0 is no relation.

# %%
from mil_tutorial import seed_agreement


def attention_of(net):
    """Raw attention on the test slides with tumour; on four of them if bags are large."""
    with torch.inference_mode():
        return [net(X[n][None], return_att=True)[1][0].numpy() for n in data.budget.first(tumor_slides, 4)]


def agreement(one, other):
    """Mean rank correlation over the slides, and its interval over slides."""
    values = [seed_agreement(pair) for pair in zip(one, other)]
    means = [np.mean(rng.choice(values, len(values))) for _ in range(500)]
    return np.mean(values), *np.quantile(means, [0.025, 0.975])


last, again, by_epoch = attention_of(model), copy.deepcopy(model), []
for weights in diary:
    again.load_state_dict(weights)
    by_epoch.append(agreement(attention_of(again), last))

# %%
others = [attention_of(train_model(seed, bags=few)[0]) for seed in [1, 2]]
words = "seed 1 against seed 2: rank correlation {:.2f} [{:.2f}, {:.2f}]"
print(words.format(*agreement(*others)))

# %%
fig, ax = plt.subplots(figsize=(7, 3))
value, low, high = np.transpose(by_epoch)
epochs = np.arange(1, len(value) + 1)
ax.plot(epochs, value, color="#0072B2", marker="o", ms=4, label="an earlier epoch of this run")
ax.fill_between(epochs, low, high, color="#0072B2", alpha=0.15)
for i, other in enumerate(others):
    value, low, high = agreement(other, last)
    ax.axhspan(low, high, color="#D55E00", alpha=0.12)
    ax.axhline(value, color="#D55E00", ls="--", label="another seed" if i == 0 else None)
    print(f"seed {i + 1} against seed 0: rank correlation {value:.2f} [{low:.2f}, {high:.2f}]")
ax.set(
    xlabel="epoch",
    ylabel="rank correlation\nwith the kept model",
    ylim=(-0.3, 1.03),
    xticks=epochs[:: max(1, len(epochs) // 5)],
    title="Settled within a run; another seed settles elsewhere",
)
ax.legend(loc=(0.55, 0.5))
plt.show()

# %% [markdown]
# *What to see: the blue line compares each epoch with the kept one, so it has to reach 1 there. But within this run the order is
# nearly fixed after a few epochs already. Orange: the two other seeds order the patches quite differently. If a map has stopped
# changing, that does not make it the right map.*
#
# The line that was printed first says more: those two seeds agree well *with each other*. So the difference is not just noise.
# There are at least two ways to order the patches of these slides, and the seed decides which one the model takes.
#
# In our run attention settles early. Others saw it swing from epoch to epoch, in four attention models on two data sets
# ([ASMIL](https://arxiv.org/abs/2603.06658), ICLR 2026). So draw this figure for your own model before you trust one map, and
# show several seeds, or their mean.
#
# ## How good is it? FROC
#
# <!-- instructor, 8 min: Do the three-slide case on the board before the curve. -->
#
# A doctor asks in another way: *if I look at the places that you mark, how many lesions do I find, and how many places are false
# alarms?* The CAMELYON16 challenge measures that with the **FROC** curve (free-response receiver operating characteristic).
#
# First, patches become **detections**: take the best patch, drop its neighbours, take the next best. The score of a detection is
# the slide's probability times $s/(1+s)$, where $s$ is the patch's attention in fair shares. A patch with one fair share gets
# half of the slide's probability, one with many shares nearly all of it. (Why not the softmax itself? The more patches a slide
# has, the smaller it gets. Then patches of large and small slides could not be ranked together.)

# %%
from mil_tutorial import find_detections

side = patches.geometry.patch_size_level0
s = attention_times_n(attention[wsi_name])
by_hand = find_detections(probability[wsi_name] * s / (1 + s), patches.coords, side)
print(f"{len(by_hand)} detections on {wsi_name}; the three best (score, x, y):")
print(by_hand[:3].round(2))

# %% [markdown]
# The finished form, `localize_slide`, gives probability, scores and detections of a slide. `mil-tutorial localize` calls it, too.

# %%
from mil_tutorial import localize_slide

detections = {}
for name in test.names:
    detections[name] = localize_slide(model, X[name], test_set.read_patches(name)).detections
assert np.allclose(detections[wsi_name], by_hand, atol=1e-5)
print(f"{sum(map(len, detections.values()))} detections on {len(detections)} slides")

# %% [markdown]
# Then come the **lesions**: connected areas of tumour in the mask. Areas that are less than 75 µm apart are one lesion. A lesion
# whose long axis is below 275 µm counts as *isolated tumour cells*: neither a hit nor a false alarm.

# %%
from mil_tutorial import froc, lesions_from_mask

lesions = {name: lesions_from_mask(masks[name]) if name in masks else None for name in test.names}
for name in tumor_slides[:5]:
    found = lesions[name]  # None: the mask's coarse level shows no tumour
    count, small = (found.count, len(found.itc)) if found else (0, 0)
    print(f"{name}: {count} lesion(s), {small} more of isolated tumour cells")
result = froc(
    detections, lesions, n_bootstrap=500
)  # leaves out CAMELYON16's test_114, not all of whose lesions are drawn
print(f"FROC score {result.score:.3f}, 95 % interval over slides {result.low:.3f} to {result.high:.3f}")

# %%
fig, ax = plt.subplots(figsize=(7, 3.2))
ax.step(result.fp_per_slide, result.sensitivity, where="post", lw=2)
for rate in [0.25, 0.5, 1, 2, 4, 8]:
    ax.axvline(rate, color="#BBBBBB", lw=0.8, zorder=0)
ax.set(
    title=f"FROC score {result.score:.3f}: the mean of the sensitivity at six rates of false alarms",
    xlabel="false positives per slide",
    ylabel="share of lesions found",
    ylim=(0, 1.02),
    xscale="symlog",
    xticks=[0.25, 0.5, 1, 2, 4, 8],
    xticklabels=["¼", "½", "1", "2", "4", "8"],
    xlim=(0, 9),
)
plt.show()

# %% [markdown]
# *What to see: the further right, the more false alarms you accept, and the more lesions you find. Where the line is flat,
# further places only add false alarms.*
#
# On all test slides of CAMELYON16, `benchmarks/camelyon16.py` prints this score with its interval, beside published results.
#
# ## Explore it
#
# <!-- instructor, 8 min: Give them three free minutes with the viewer. It is what they will remember. -->
#
# Drag to move, click on the slide, then turn the wheel to zoom. Hover over a patch for its place and scores; click on it to go
# there. In this frame the finest pixels are 1 µm wide (4 µm on a large slide), so that the notebook stays small.

# %%
from mil_tutorial import view_heatmap

slide, truth_of = data.slide_path(wsi_name), y_inst[wsi_name]
finest = 4.0 if data.budget.large else 1.0  # µm per pixel
view_heatmap(slide, patches.coords, side, scores, truth_of, title=wsi_name, finest_mpp=finest)

# %% [markdown]
# The next cell writes a view that goes down to the cells: a page that opens with a double click, without a network. Its tiles lie
# in a folder beside it, so move or send both together. The cell also writes a GeoJSON file for [QuPath](https://qupath.github.io):
# open the slide there and drag the file onto it.

# %%
from pathlib import Path

from mil_tutorial import write_geojson

out = Path("outputs")
page = {"title": wsi_name, "html": out / f"{wsi_name}.html", "one_file": False}
view_heatmap(slide, patches.coords, side, scores, truth_of, **page)
hot = ("attention x n", 3.0)  # patches with more than three fair shares
write_geojson(out / f"{wsi_name}.geojson", patches.coords, side, scores, labels=truth_of, regions=hot)
print(sorted(p.name for p in out.iterdir()))

# %% [markdown]
# ## In torchmil
#
# torchmil draws one patch after the other, ours all at once. Same picture:

# %%
from torchmil.visualize import draw_heatmap_wsi

if rows.dtype.kind == "i":
    theirs = draw_heatmap_wsi(canvas, min_max, px, rows, columns)
    assert np.abs(theirs.astype(int) - prediction.astype(int)).max() <= 2
    print("equal, up to 2 of 255")
else:
    print("here each piece of tissue has its own grid: rows and columns are fractions, which torchmil does not take")

# %% [markdown]
# ## What can go wrong
#
# - **Attention is not a diagnosis.** It says where the model looked, not for which answer a patch spoke. The contribution adds
#   the sign.
# - **A heatmap is off by one patch**, because the coordinates come from one run and the features from another. Our reader
#   compares them.
# - **A map that knows nothing must not score.** Check it: with the same attention, randomly permuted, the patch AUC must be near
#   0.5.

# %%
shuffled = [
    patch_metrics(y_inst[name], rng.permutation(attention[name]))["auc"]
    for name in tumor_slides
    for _ in range(2 if data.budget.large else 20)
]
print(f"patch AUC of shuffled attention: {np.nanmean(shuffled):.3f}")
assert abs(np.nanmean(shuffled) - 0.5) < 0.1

# %% [markdown]
# ## Ask a slide that the model has never seen
#
# <!-- instructor, 4 min: Let somebody else name a test slide. Read the warnings aloud before the probability. -->
#
# This is what all six notebooks were for. The model goes into one file, together with a summary of its training slides, so that
# it can warn of a slide that is unlike them. Then a slide comes in. `mil-tutorial predict` does the same for any slide file: it
# finds the tissue, cuts the patches and computes the features.

# %%
from mil_tutorial import TrainedModel, predict_slide

train_set, _ = split_bags(dataset, seed=0)
facts = {"encoder": data.encoder, "threshold": thresholds["ABMIL"], "synthetic": data.synthetic}
TrainedModel.of(model, train_set, val_set, **facts).save(out / "abmil.pt")
answer = predict_slide(data.slide_path(puzzle), out / "abmil.pt", features=data.trident_dir, progress=False)
print(f"{puzzle}: tumour probability {answer.probability:.2f}, threshold {answer.threshold:.2f}")
answer

# %% [markdown]
# *What to see: on one card, the answer, the reasons to doubt it, and the patches that decided. The map shows the contribution,
# one of the scores that did well in the deletion test. It is what a model of this course found, on a synthetic slide unless you
# brought your own. It is not a diagnosis.*

# %% [markdown]
# ## Exercises
#
# <!-- instructor, 9 min: Exercise 4 joins patches and FROC; do it together if time is short. -->
#
# **Exercise 2 (★).** Write `fair_share(raw)`: softmax of the raw attention times the number of patches.
#
# <details><summary>Hint</summary>Exercise 1 of notebook 3, and then <code>* len(raw)</code>. Here <code>raw</code> is a NumPy array: use <code>np.exp</code>.</details>


# %% tags=["exercise"]
def fair_share(raw):
    """One value for each patch. fair_share(np.zeros(4)) is [1, 1, 1, 1]."""
    # Write your code here.


# %% tags=["check"]
from mil_tutorial.exercises import notebook_6 as check

check.fair_share(fair_share)


# %% tags=["solution"]
# @title Solution of exercise 2
def fair_share(raw):
    e = np.exp(raw - raw.max())
    return e / e.sum() * len(raw)


assert check.fair_share.accepts(fair_share)
print(f"the patch with most attention has {fair_share(f).max():.1f} times its fair share")

# %% [markdown]
# **Exercise 3 (★★).** The **pointing game**: on which share of the tumour slides is the patch with the highest score a tumour
# patch? Write `pointing_game(scores, truths)`, both lists with one array for each slide.
#
# <details><summary>Hint</summary>Begin with one slide: <code>argmax</code> gives the number of its highest patch. What does the truth say about that patch?</details>


# %% tags=["exercise"]
def pointing_game(scores, truths):
    """A share of slides. pointing_game([np.array([0.1, 0.9])], [np.array([0, 1])]) is 1.0."""
    # Write your code here.


# %% tags=["check"]
from mil_tutorial.exercises import notebook_6 as check

check.pointing_game(pointing_game)


# %% tags=["solution"]
# @title Solution of exercise 3
def pointing_game(scores, truths):
    return np.mean([truth[score.argmax()] == 1 for score, truth in zip(scores, truths)])


assert check.pointing_game.accepts(pointing_game)
found_by_attention = pointing_game([attention[name] for name in tumor_slides], [y_inst[name] for name in tumor_slides])
print(f"attention points at tumour on {found_by_attention:.0%} of the tumour slides")

# %% [markdown]
# **Exercise 4 (★★★).** FROC wants points, not patches. Write `find_peaks(score, coords, radius)`: take the patch of highest
# score, drop all patches whose corner is nearer than `radius` to its corner, and go on until none is left. Return the numbers of
# the patches taken.
#
# <details><summary>Hint</summary>Walk through <code>np.argsort(-score)</code> and keep a list. A patch is taken if it is at least <code>radius</code> away from all that were taken before.</details>


# %% tags=["exercise"]
def find_peaks(score, coords, radius):
    """Numbers of patches, the best first. With three patches far from each other it takes all three."""
    # Write your code here.


# %% tags=["check"]
from mil_tutorial.exercises import notebook_6 as check

check.find_peaks(find_peaks)


# %% tags=["solution"]
# @title Solution of exercise 4
def find_peaks(score, coords, radius):
    taken = []
    for i in np.argsort(-score):
        if all(np.hypot(*(coords[i] - coords[j])) >= radius for j in taken):
            taken.append(i)
    return taken


assert check.find_peaks.accepts(find_peaks)
print(
    "three of five patches:",
    [
        int(i)
        for i in find_peaks(
            np.array([0.9, 0.8, 0.7, 0.1, 0.2]), np.array([[0, 0], [10, 0], [20, 0], [100, 0], [100, 9]]), 15
        )
    ],
)

# %% [markdown]
# ## Recap
#
# - Min–max scaling makes every slide look guilty. Use a score with a meaning, and **one scale**.
# - A map must be **tested**: deletion (look at the whole curve), counterfactual slides, other seeds.
# - **Patch AUC** asks for the order of patches, **FROC** for lesions found and false alarms.
#
# ## DO / DON'T
#
# | DO | DON'T |
# |---|---|
# | show the slide's probability beside its map | scale each map by itself |
# | test a score by deletion, against a random order, and look at the curve | call a map an explanation because it looks right |
# | ask counterfactual slides how small a lesion may be | conclude from large lesions to small ones |
# | show several seeds, or their mean | publish the map of one run |
# | count lesions and false alarms (FROC) with an interval | count pixels only |
# | say that it is not for clinical use | let a heatmap stand for a diagnosis |
#
# ### Quiz
#
# {quiz}

# %% tags=["quiz"]
from mil_tutorial.exercises.quizzes import answer_quiz

answer_quiz(6, "")  # your five letters between the quotes: they are remembered on this computer, and nowhere else

# %% [markdown]
# ### References
#
# - S. Jain, B. C. Wallace, *Attention is not Explanation*, NAACL 2019, [arXiv:1902.10186](https://arxiv.org/abs/1902.10186).
# - W. Samek et al., *Evaluating the Visualization of What a Deep Neural Network Has Learned*, IEEE TNNLS 28 (2017),
#   [arXiv:1509.06321](https://arxiv.org/abs/1509.06321). Deletion curves.
# - B. Ehteshami Bejnordi et al., JAMA 318 (2017), [doi:10.1001/jama.2017.14585](https://doi.org/10.1001/jama.2017.14585). FROC as
#   the challenge defines it.
# - M. Jamshidi Idaji et al., *Beyond Attention Heatmaps: How to Get Better Explanations for Multiple Instance Learning Models in
#   Histopathology*, 2026, [arXiv:2603.08328](https://arxiv.org/abs/2603.08328).
# - J. Hense et al., *xMIL: Insightful Explanations for Multiple Instance Learning in Histopathology*, NeurIPS 2024,
#   [arXiv:2406.04280](https://arxiv.org/abs/2406.04280).
# - J. R. Kaczmarzyk et al., *Explainable AI for computational pathology identifies model limitations and tissue biomarkers*
#   (HIPPO), 2024, [arXiv:2409.03080](https://arxiv.org/abs/2409.03080).
# - L. Ye et al., *ASMIL: Attention-Stabilized Multiple Instance Learning for Whole Slide Imaging*, ICLR 2026,
#   [arXiv:2603.06658](https://arxiv.org/abs/2603.06658).
# - M. Sundararajan, A. Taly, Q. Yan, *Axiomatic Attribution for Deep Networks*, ICML 2017,
#   [arXiv:1703.01365](https://arxiv.org/abs/1703.01365). Integrated gradients.
# - P. Bankhead et al., *QuPath: Open source software for digital pathology image analysis*, Scientific Reports 7 (2017),
#   [doi:10.1038/s41598-017-17204-5](https://doi.org/10.1038/s41598-017-17204-5).
#
# **You have finished the course.** Now you can point `MIL_TUTORIAL_DATA` at your own slides, or at CAMELYON16.

# %% tags=["result"]
print(
    f"Key result: patch AUC {patch_auc:.3f}, attention points at tumour on {hits:.0%} of tumour slides, FROC {result.score:.3f}"
)

# %%
from mil_tutorial.exercises.certificate import show_progress

show_progress(name="")  # your name between the quotes: a certificate with what you have solved
