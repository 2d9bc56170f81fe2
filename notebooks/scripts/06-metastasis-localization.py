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
# | **Time** | about 50 minutes to read and do |
# | **Measured** | runs in 23 s and takes 0.7 GB of memory, on two CPU cores |
# | **Data** | features of the synthetic slides; two slides and the tumour masks of the test set are drawn |


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
# ## Attention, laid on the slide
#
# <!-- instructor, 5 min: Let them praise the picture. The next section takes it apart. -->
#
# The model was trained with one label for each slide. Nobody told it where the tumour is. But its attention says which
# patches counted. We train it as in notebook 5, with a diary of every epoch, and take the slide of notebook 1.

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
# *What to see: on the left red patches hold tumour. On the right red patches got much attention. The model found the place
# with no label for any patch.*
#
# ## Why that picture misleads
#
# <!-- instructor, 8 min: Put the normal slide with min-max scaling on the wall and ask: where is the tumour? Then the same slide on one scale. -->
#
# > **Predict:** what will a healthy slide look like in this scaling?
#
# Scaling from smallest to largest makes **some patch of every slide red**, also on a healthy one:

# %% tags=["landing-guilty"]
from mil_tutorial import scale_min_max

normal_slides = [name for name, y in zip(test.names, test.Y) if y == 0]
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
# Two scores that can be compared. For a patch with raw attention $f_i$ and softmax $s_i$ in a bag of $n$:
#
# | score | formula | meaning |
# |---|---|---|
# | attention × n | $n\,s_i$ | 1 is a fair share; 10 means ten times as much as that |
# | contribution | $s_i\,\mathbf{c}^\top \mathbf{x}_i$ | its part of the slide's logit: these sum to the logit, less the bias |

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
# Now both slides with the contribution, on **one colour scale**. Zero, which moves the answer nowhere, is white.

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
# *What to see: orange speaks for tumour, purple against it. On the left a few patches push the answer up. On the right patches
# push it down. The map can be read by colour-blind readers, and the bar says what a colour means.*
#
# Which score tells best what the model used is not a matter of taste. It can be tested, and we test it after a first look at the truth.
#
# ## Does it find the tumour? Patches
#
# <!-- instructor, 5 min: Unknown patches are left out. Ask what would happen if they counted as normal. -->
#
# A good score ranks tumour patches above the others. The **patch AUC** is the share of pairs (tumour patch, other patch) in
# the right order. The **pointing game** asks: does the highest patch of a slide lie on tumour? **Dice**: if all patches above a threshold are marked, how well
# does the mark cover the tumour? The threshold comes from validation slides. Unknown patches are left out.

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
# The order is nearly right, the highest patch is right on most slides, and the marked area is only half right: a good order is not a good outline. The threshold
# for Dice lies far below one fair share, because a few patches take nearly all attention and the rest of a large tumour shares what is left. It serves Dice, not pictures.
#
# ## Does the map show what the model uses? Deletion and insertion
#
# <!-- instructor, 8 min: The best finding of the course. Let them explain why the orange line climbs back before you do. -->
#
# A map may look right and still not be what the model used. Test it: **take away** the patches of highest score, one after the
# other, and ask the model again. If the score is faithful, the probability falls at once. And the other way round: **put
# in** the highest patches first, and it should rise at once. The area under the curve says how fast, against a random order.
#
# Six scores are tested. Attention, contribution and *gradient × input* come from one pass (`patch_scores`). Three more only **ask the model**, and
# each is a few lines:


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
# > **Predict:** which falls faster, the curve of attention, which everybody draws, or that of the contribution?

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
# *What to see: left, a line that falls early knows what the model uses. Orange, attention, falls at first almost as fast as the best, and then **climbs back** to
# where it began. Right, all coloured lines lie at 1: one good patch is enough, so insertion does not tell them apart here.*
#
# This is the figure to remember, because one number would have misled us. By the whole curve, attention looks hardly better than a random order. By the first third it is clearly
# better than that: **it finds the first patches that matter.** Why the climb? When those are gone, what is left is what attention cared least for, such as glass.
# Attention must go somewhere, and on such a bag the classifier's opinion is untrained. The contribution, single patches and integrated gradients include that opinion and take such patches away, too.
# So: attention says where the model looks, **not what it concludes**; and the end of a deletion curve asks about slides that do not exist.
#
# Leave-one-out fails for another reason: take one of many tumour patches away, and its neighbours take over, so none seems to matter. On real slides and several models,
# single patches, integrated gradients and relevance propagation were found to be more faithful than attention and plain gradients
# ([arXiv:2603.08328](https://arxiv.org/abs/2603.08328); see also [xMIL](https://arxiv.org/abs/2406.04280), NeurIPS 2024). Which is best depends on the model: test yours.
#
# ### ★ Change this, beat that number
#
# How many patches must go until the model no longer calls a slide tumour (probability below one half)? We take the slide on which two orders differ most.


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
# **Exercise 1 (★).** Change `take_out` until so few patches do.
#
# <details><summary>Hint</summary><code>all_scores[puzzle]</code> holds every score; its names are in <code>tested</code>. Which line in the figure stays low?</details>

# %% tags=["exercise"]
take_out = np.argsort(-all_scores[puzzle]["attention x n"])[:goal]  # change this: another score


# %% tags=["check"]
def check_take_out(patches_gone):
    try:
        gone = sorted({int(i) for i in patches_gone})
    except (TypeError, ValueError):
        return f"Not yet: take_out is {patches_gone!r:.60}, expected the numbers of patches."
    if any(not 0 <= i < len(X[puzzle]) for i in gone) or len(gone) == len(X[puzzle]):
        return f"Not yet: the slide has patches 0 to {len(X[puzzle]) - 1}, and one must stay."
    prob = left_over(puzzle, gone)
    if prob >= 0.5 and goal < 50:
        return f"Not yet: without these {len(gone)} patches the probability is {prob:.2f}, expected below 0.50."
    if len(gone) > goal:
        return f"Not yet: the probability is {prob:.2f}, but {len(gone)} patches are more than {goal}."
    return "Right."


print(check_take_out(take_out))

# %% tags=["solution"]
# @title Solution of exercise 1
for key in tested:
    print(f"{key:21s} {fewest(puzzle, key)} patches")
best = min(tested, key=lambda key: fewest(puzzle, key))
take_out = np.argsort(-all_scores[puzzle][best])[:goal]
assert check_take_out(take_out) == "Right.", check_take_out(take_out)

# %% [markdown]
# ## Counterfactual slides: what if?
#
# <!-- instructor, 7 min: Take the lesion out: who expects a healthy slide? Then show the four that stay sick. -->
#
# Deletion asks about an order. A doctor asks plainer: **if the tumour were not there, would the model say "healthy"?** A bag is a set, so we can build slides
# that nobody has scanned: a sick one without its lesion, a healthy one with a piece of another's tumour. HIPPO does this on real slides
# ([arXiv:2409.03080](https://arxiv.org/abs/2409.03080)), and found models that overlook small tumours although their scores looked fine.
#
# First, **the lesion is taken out**. Twice: only the patches that are *labelled* tumour (more than half of the patch), and all patches with *any* tumour in the mask.

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
# Two surprises. Without the *labelled* patches most slides stay tumour: a patch with 40 % tumour is labelled "normal", and the model sees it. A patch label is a **threshold**, not the truth.
#
# And some slides stay tumour with **no tumour left at all**. They are those with a large lesion: less than half of their patches remain. Such a bag is no healthy slide but a part of one, and looks like none in
# training. Attention always adds up to 1, so it must go somewhere, and the classifier has an opinion on everything; the mean divides by fewer patches. Max pooling never falls for it here. A deletion curve that climbs back is the same effect.
#
# Then, **a lesion is put in**: $k$ tumour patches of one slide, into each healthy slide. From which $k$ on does a model find it? The interval is over both, the slides that
# give and the slides that receive.

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


# %%
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
# *What to see: the further left a line is high, the smaller a lesion may be. A patch is a quarter of a millimetre wide, so one patch is a small micrometastasis. Max and ABMIL find nearly all lesions of one
# patch and all of two; the mean needs about eight, because it divides the lesion by the size of the slide.*
#
# That sounds better than it is. The patches come from the middle of large lesions, all tumour, often from the other scanner, and four givers are few. The slides that are *missed* (notebook 5) have isolated cells: a few per cent of a patch. A curve over **patches** says nothing about lesions smaller than one.
#
# ## Would another run draw the same map? Seeds and epochs
#
# <!-- instructor, 4 min: One picture is one opinion. -->
#
# Two questions to one figure. Does attention settle **within** a run, from epoch to epoch? And do **other seeds** settle on the same order? We compare the order of the patches (rank correlation, 1 is the same order).

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
    ylim=(0, 1.03),
    title="Settled within a run, and elsewhere in the next",
)
ax.legend(loc="center right")
plt.show()

# %% [markdown]
# *What to see: blue: within this run the order is nearly fixed after a few epochs. Orange: the two other seeds order the patches quite differently. A map that has stopped changing is
# not yet the right map.*
#
# The line printed first says more: those two agree well *with each other*. So it is not noise. There are at least two ways to order the patches of these slides, and the seed chooses.
#
# In our runs attention settles early; others saw it swing from epoch to epoch, in four attention models on two data sets ([ASMIL](https://arxiv.org/abs/2603.06658), ICLR 2026). Draw your own figure
# before you trust one map: show several seeds, or their mean.
#
# ## How good is it? FROC
#
# <!-- instructor, 8 min: Do the three-slide case on the board before the curve. -->
#
# A doctor asks differently: *if I look at the places that you mark, how many lesions do I find, and how many places are false
# alarms?* The CAMELYON16 challenge measures that with the **FROC** curve.
#
# First patches become **detections**: take the best patch, drop its neighbours, take the next best. The score of a detection is
# the slide's probability times $s/(1+s)$, where $s$ counts the patch's fair shares: a patch with one fair share gets half of the
# slide's probability, one with many shares nearly all of it. (The softmax itself would not do: it is smaller the more patches a
# slide has, so that large slides could never be ranked with small ones.)

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
# Then the **lesions**: connected drawings in the mask. Drawings nearer than 75 µm are one lesion. A lesion whose long axis is
# below 275 µm is *isolated tumour cells*, and counts neither way.

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
# *What to see: the further right, the more false alarms you accept, and the more lesions are found. A flat line says that
# what is found at all is found among the first places marked.*
#
# On all test slides of CAMELYON16, `benchmarks/camelyon16.py` prints this score with its interval, beside published results.
#
# ## Explore it
#
# <!-- instructor, 8 min: Give them three free minutes with the viewer. It is what they will remember. -->
#
# Pan with the mouse, zoom with the wheel: the three pictures move together. Hover over a patch for its place and score.

# %%
from mil_tutorial import view_heatmap

finest = 4 if data.budget.large else None  # µm per pixel: in the notebook a large slide stays coarse
slide = open_slide(data.slide_path(wsi_name))
view_heatmap(slide, patches.coords, side, scores, labels=y_inst[wsi_name], title=wsi_name, finest_mpp=finest)

# %% [markdown]
# The same as one file that opens without a network, and the patches for [QuPath](https://qupath.github.io): drag the GeoJSON
# onto the slide there.

# %%
from pathlib import Path

from mil_tutorial import write_geojson

out, truth_of = Path("outputs"), y_inst[wsi_name]
page = {"title": wsi_name, "html": out / f"{wsi_name}.html"}
view_heatmap(data.slide_path(wsi_name), patches.coords, side, scores, truth_of, **page)
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
# - **Attention is not a diagnosis.** It says what counted, not for which answer. The contribution adds the sign.
# - **A heatmap off by one patch.** Coordinates from one file and features from another. Our reader compares them.
# - **Does a model that knows nothing localize?** It must not. A check: the same attention, randomly permuted.

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
# This is what all six notebooks were for. The model goes into one file, with what its training slides are like. Then a slide comes in. `mil-tutorial predict` does
# the same for any slide file: it finds the tissue, cuts the patches, computes the features.

# %%
from mil_tutorial import TrainedModel, know_slides, predict_slide

train_set, _ = split_bags(dataset, seed=0)
known = know_slides(train_set, val_set, encoder=data.encoder, synthetic=data.synthetic)  # to notice an unlike slide
trained = TrainedModel(model, False, data.encoder, thresholds["ABMIL"], 0, tuple(dataset.get_bag_names()), known)
trained.save(out / "abmil.pt")
answer = predict_slide(data.slide_path(puzzle), out / "abmil.pt", features=data.trident_dir, progress=False)
print(f"{puzzle}: tumour probability {answer.probability:.2f}, threshold {answer.threshold:.2f}")
answer

# %% [markdown]
# *What to see: the answer, the reasons to doubt it, and the patches that decided, on one card. The map is the contribution, one of the scores that did well in the
# deletion test. It is a finding of a model on a synthetic slide, and no diagnosis.*

# %% [markdown]
# ## Exercises
#
# <!-- instructor, 9 min: Exercise 4 joins patches and FROC; do it together if time is short. -->
#
# **Exercise 2 (★).** Write `fair_share(raw)`: softmax of the raw attention times the number of patches.
#
# <details><summary>Hint</summary>Exercise 1 of notebook 3, and then <code>* len(raw)</code>. Here <code>raw</code> is a NumPy array: use <code>np.exp</code>.</details>


# %% tags=["exercise"]
def fair_share(raw): ...  # write your code here


# %% tags=["check"]
def check_fair_share(function):
    for raw in [np.zeros(4), np.array([0.0, 1.0, 2.0]), f]:
        answer = function(raw)
        if answer is None:
            return "Not yet: the function returns nothing."
        answer = np.asarray(answer)
        if not np.isfinite(answer).all():
            return "Not yet: some values are not finite. Does something overflow?"
        if abs(np.mean(answer) - 1) > 1e-5:
            return f"Not yet: the mean is {np.mean(answer):.3f}, expected 1."
        if not np.allclose(answer, attention_times_n(raw), atol=1e-5):
            return "Not yet: the mean is right, the values are not. Is it a softmax?"
    return "Right."


print(check_fair_share(fair_share))


# %% tags=["solution"]
# @title Solution of exercise 2
def fair_share(raw):
    e = np.exp(raw - raw.max())
    return e / e.sum() * len(raw)


assert check_fair_share(fair_share) == "Right.", check_fair_share(fair_share)
print(f"the patch with most attention has {fair_share(f).max():.1f} times its fair share")

# %% [markdown]
# **Exercise 3 (★★).** The **pointing game**: on which share of the tumour slides is the patch with the highest score a tumour
# patch? Write `pointing_game(scores, truths)`, both lists with one array for each slide.
#
# <details><summary>Hint</summary><code>truth[score.argmax()] == 1</code> for one slide.</details>


# %% tags=["exercise"]
def pointing_game(scores, truths): ...  # write your code here


# %% tags=["check"]
def check_pointing_game(function):
    some_scores = [np.array([0.1, 0.9, 0.2]), np.array([0.8, 0.2, 0.1]), np.array([0.3, 0.4, 0.1])]
    some_truths = [np.array([0, 1, 0]), np.array([0, 1, 0]), np.array([1, 1, 0])]
    answer = function(some_scores, some_truths)
    if answer is None:
        return "Not yet: the function returns nothing."
    if np.ndim(answer):
        return "Not yet: the function returns several values, expected one number: the fraction of slides that hit."
    if not abs(answer - 2 / 3) <= 1e-6:
        return f"Not yet: for three slides of which two hit, it gives {answer:.3f}, expected 0.667. A slide may have several tumour patches."
    return "Right."


print(check_pointing_game(pointing_game))


# %% tags=["solution"]
# @title Solution of exercise 3
def pointing_game(scores, truths):
    return np.mean([truth[score.argmax()] == 1 for score, truth in zip(scores, truths)])


assert check_pointing_game(pointing_game) == "Right.", check_pointing_game(pointing_game)
found_by_attention = pointing_game([attention[name] for name in tumor_slides], [y_inst[name] for name in tumor_slides])
print(f"attention points at tumour on {found_by_attention:.0%} of the tumour slides")

# %% [markdown]
# **Exercise 4 (★★★).** FROC wants points, not patches. Write `find_peaks(score, coords, radius)`: take the patch of highest score, drop all
# patches whose corner is nearer than `radius` to its corner, and go on until none is left. Return the numbers of the patches taken.
#
# <details><summary>Hint</summary>Walk through <code>np.argsort(-score)</code> and keep a list. A patch is taken if it is at least <code>radius</code> away from all that were taken before.</details>


# %% tags=["exercise"]
def find_peaks(score, coords, radius): ...  # write your code here


# %% tags=["check"]
def check_find_peaks(function):
    coords = np.array([[0, 0], [10, 0], [20, 0], [100, 0], [100, 9]])
    cases = [
        ([0.1, 0.9, 0.2, 0.3, 0.4], 15, [1, 4]),
        ([0.9, 0.8, 0.7, 0.1, 0.2], 15, [0, 2, 4]),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 1, [0, 1, 2, 3, 4]),
        ([0.9, 0.8, 0.7, 0.2, 0.1], 10, [0, 1, 2, 3]),
    ]
    for score, radius, right in cases:
        answer = function(np.array(score), coords, radius)
        if answer is None:
            return "Not yet: the function returns nothing."
        if np.ndim(answer) != 1:
            return "Not yet: expected a list of the numbers of the patches, not their coordinates."
        if [int(i) for i in answer] != right:
            return f"Not yet: for scores {score} and radius {radius} it gives {[int(i) for i in answer]}, expected {right}."
    return "Right."


print(check_find_peaks(find_peaks))


# %% tags=["solution"]
# @title Solution of exercise 4
def find_peaks(score, coords, radius):
    taken = []
    for i in np.argsort(-score):
        if all(np.hypot(*(coords[i] - coords[j])) >= radius for j in taken):
            taken.append(i)
    return taken


assert check_find_peaks(find_peaks) == "Right.", check_find_peaks(find_peaks)
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
# 1. *On a healthy slide, one patch has 20 times its fair share of attention. Is it tumour?*
#    <details><summary>Answer</summary>No. Attention is always shared out. Look at the slide's probability and at the patch's contribution.</details>
# 2. *Why do isolated tumour cells count neither way in FROC?*
#    <details><summary>Answer</summary>Experts disagree on them. Finding one is not rewarded, and is no false alarm either.</details>
# 3. *Why are normal slides part of FROC?*
#    <details><summary>Answer</summary>False alarms on healthy slides cost a doctor's time, too.</details>
# 4. *A lesion is hit by three detections. How often does it count?*
#    <details><summary>Answer</summary>Once, with the highest of the three. The others are neither hits nor false alarms.</details>
# 5. *Deleting the patches of highest attention does not change the probability. What does that tell?*
#    <details><summary>Answer</summary>That this attention does not explain the answer: other patches carry it as well. A heatmap of it would look convincing, and mislead.</details>
#
# ### References
#
# - S. Jain, B. C. Wallace, *Attention is not Explanation*, NAACL 2019, [arXiv:1902.10186](https://arxiv.org/abs/1902.10186).
# - W. Samek et al., *Evaluating the Visualization of What a Deep Neural Network Has Learned*, IEEE TNNLS 28 (2017), [arXiv:1509.06321](https://arxiv.org/abs/1509.06321). Deletion curves.
# - B. Ehteshami Bejnordi et al., JAMA 318 (2017), [doi:10.1001/jama.2017.14585](https://doi.org/10.1001/jama.2017.14585). FROC as the challenge defines it.
# - M. Jamshidi Idaji et al., *Beyond Attention Heatmaps: How to Get Better Explanations for Multiple Instance Learning Models in Histopathology*, 2026, [arXiv:2603.08328](https://arxiv.org/abs/2603.08328).
# - J. Hense et al., *xMIL: Insightful Explanations for Multiple Instance Learning in Histopathology*, NeurIPS 2024, [arXiv:2406.04280](https://arxiv.org/abs/2406.04280).
# - J. R. Kaczmarzyk et al., *Explainable AI for computational pathology identifies model limitations and tissue biomarkers* (HIPPO), 2024, [arXiv:2409.03080](https://arxiv.org/abs/2409.03080).
# - L. Ye et al., *ASMIL: Attention-Stabilized Multiple Instance Learning for Whole Slide Imaging*, ICLR 2026, [arXiv:2603.06658](https://arxiv.org/abs/2603.06658).
# - M. Sundararajan, A. Taly, Q. Yan, *Axiomatic Attribution for Deep Networks*, ICML 2017, [arXiv:1703.01365](https://arxiv.org/abs/1703.01365). Integrated gradients.
# - P. Bankhead et al., *QuPath: Open source software for digital pathology image analysis*, Scientific Reports 7 (2017), [doi:10.1038/s41598-017-17204-5](https://doi.org/10.1038/s41598-017-17204-5).
#
# **You have been through the course.** You can now point `MIL_TUTORIAL_DATA` at your own slides, or at CAMELYON16.

# %% tags=["result"]
print(
    f"Key result: patch AUC {patch_auc:.3f}, attention points at tumour on {hits:.0%} of tumour slides, FROC {result.score:.3f}"
)
