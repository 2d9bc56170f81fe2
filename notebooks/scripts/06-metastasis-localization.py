# %% [markdown]
# # 6 · Where is the metastasis?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mil-tutorial/mil-tutorial/blob/main/notebooks/06-metastasis-localization.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/mil-tutorial/mil-tutorial/main?labpath=notebooks/06-metastasis-localization.ipynb)
#
# **Course: Multiple Instance Learning for whole-slide images** · notebook 6 of 6
#
# | | |
# |---|---|
# | **You will be able to** | turn attention into a heatmap that can be compared between slides · measure localization by patches and by FROC · explore a slide in a viewer · hand results to QuPath |
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
# patches counted. We train it as in notebook 5, and take the slide of notebook 1.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from mil_tutorial import (
    ABMIL,
    draw_heatmap,
    fit,
    make_loader,
    open_data,
    open_slide,
    predict,
    read_canvas,
    show_images,
    split_bags,
)

data = open_data()
dataset = data.bags("train", keys=["X", "Y", "y_inst"])  # y_inst only to measure: training sees X and Y
test_set = data.bags("test", keys=["X", "Y", "y_inst"])
labels = dataset.get_bag_labels()
train_set, val_set = split_bags(dataset, seed=0)
torch.manual_seed(0)
model = ABMIL(dataset[0]["X"].shape[1])
train_loader = make_loader(train_set, data.budget.batch_size, seed=0)
fit(model, train_loader, make_loader(val_set), epochs=data.budget.epochs(20))
test = predict(model, make_loader(test_set))

# %%
y_inst = {name: test_set[i]["y_inst"].numpy() for i, name in enumerate(test.names)}
tumor_slides = [name for name, y in zip(test.names, test.Y) if y == 1]
wsi_name = data.example  # the test slide with the most tumour
attention = dict(zip(test.names, test.attention))  # raw attention of each slide's patches
probability = dict(zip(test.names, test.prob))


px = data.budget.px  # of a patch on the canvas


def draw_canvas(name):
    patches = test_set.read_patches(name)
    canvas, rows, columns = read_canvas(
        open_slide(data.slide_path(name)), patches.coords, patches.geometry.patch_size_level0, px
    )
    return patches, canvas, rows, columns


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

# %%
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
# Three scores that can be compared. For a patch with raw attention $f_i$ and softmax $s_i$ in a bag of $n$:
#
# | score | formula | meaning |
# |---|---|---|
# | attention × n | $n\,s_i$ | 1 is a fair share; 10 means ten times as much as that |
# | patch logit | $\mathbf{c}^\top \mathbf{x}_i + b$ | what the classifier would say to a slide made of this patch alone |
# | contribution | $s_i\,\mathbf{c}^\top \mathbf{x}_i$ | its part of the slide's logit: these sum to the logit, less the bias |

# %%
from mil_tutorial import attention_times_n


def scores_of(name):
    X = test_set[test.names.index(name)]["X"]
    weight, bias = model.cpu().classifier.weight[0].detach(), model.classifier.bias[0].detach()
    evidence = X @ weight
    s = torch.softmax(torch.from_numpy(attention[name]), 0)
    return {
        "contribution": (s * evidence).numpy(),
        "attention x n": attention_times_n(attention[name]),
        "patch logit": (evidence + bias).numpy(),
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
# And the patch logit? It asks another question: what would the model say to this patch alone? Which of the three tells best what
# the model used is not a matter of taste. It can be tested, and we test it below.
#
# ## How good is it? Patches
#
# <!-- instructor, 6 min: Unknown patches are left out. Ask what would happen if they counted as normal. -->
#
# A good score ranks tumour patches above the others. The **patch AUC** is the share of pairs (tumour patch, other patch) in
# the right order. Unknown patches are left out.

# %%
from mil_tutorial import patch_metrics

rows_of_table = {"random": [], "attention": [], "patch logit": [], "contribution": []}
rng = np.random.default_rng(0)
for name in tumor_slides:
    s = scores_of(name)
    for key, value in {
        "random": rng.random(len(y_inst[name])),
        "attention": s["attention x n"],
        "patch logit": s["patch logit"],
        "contribution": s["contribution"],
    }.items():
        rows_of_table[key].append(patch_metrics(y_inst[name], value)["auc"])
for key, values in rows_of_table.items():
    print(f"{key:13s} mean patch AUC over {len(values)} tumour slides: {np.nanmean(values):.3f}")
patch_auc = np.nanmean(rows_of_table["attention"])

# %% [markdown]
# Two more questions to a score. The **pointing game**: does the highest patch of a slide lie on tumour? **Dice**: if all
# patches above a threshold are marked, how well does the mark cover the tumour? The threshold comes from validation slides.

# %%
from mil_tutorial import choose_dice_threshold

validation = predict(model, make_loader(val_set))
pairs = [(val_set[i]["y_inst"].numpy(), attention_times_n(f)) for i, f in enumerate(validation.attention)]
dice_threshold = choose_dice_threshold(pairs)
per_slide = [patch_metrics(y_inst[n], attention_times_n(attention[n]), dice_threshold) for n in tumor_slides]
print(f"pointing game: right on {np.nanmean([m['pointing'] for m in per_slide]):.0%} of {len(per_slide)} tumour slides")
print(f"Dice above {dice_threshold:.4f} fair shares (from validation): {np.mean([m['dice'] for m in per_slide]):.2f}")

# %% [markdown]
# Does the best threshold for Dice surprise you? It may lie far below one fair share: a few patches take nearly all attention, and the
# rest of a large tumour shares what is left. So this threshold serves Dice, not pictures.
#
# The patches of highest and of lowest attention, as a contact sheet:

# %%
from mil_tutorial import show_patches

order = np.argsort(-attention[wsi_name])
ends = np.concatenate([order[:8], order[-8:]])
share = attention_times_n(attention[wsi_name])
show_patches(
    data.slide_path(wsi_name),
    patches.coords[ends],
    patches.geometry.patch_size_level0,
    labels=y_inst[wsi_name][ends],
    captions=[f"{share[i]:.2f} shares" for i in ends],
)
plt.show()

# %% [markdown]
# *What to see: the upper row got the most attention, the lower the least; orange frames are tumour.*
#
# ## Does the map show what the model uses? Deletion and insertion
#
# <!-- instructor, 6 min: Attention may be plausible and still not be what the model uses. -->
#
# A map may look right and still not be what the model used. Test it: **take away** the patches of highest score, one after the
# other, and ask the model again. If the score is faithful, the probability falls at once. And the other way round: **put
# in** the highest patches first, and it should rise at once. The area under the curve says how fast, against a random order.
#
# Four scores are tested: attention, the contribution, the patch logit, and **gradient × input**, which is the contribution to first
# order and works for any model.
#
# > **Predict:** will attention, which everybody draws, be far better than a random order?

# %%
from mil_tutorial import deletion_insertion, patch_scores

tested = ["attention x n", "logit contribution", "patch logit", "gradient x input"]
sure = min(0.8, max(probability[n] for n in tumor_slides))  # 0.8, unless the model is that sure of no slide
sure_slides = data.budget.first([n for n in tumor_slides if probability[n] >= sure], 3)
print(f"{len(sure_slides)} tumour slides that the model calls tumour with at least {sure:.2f}")
areas, example = {}, {}
example_name = min(sure_slides, key=lambda name: (y_inst[name] == 1).sum())  # the smallest lesion: few patches decide
for name in sure_slides:
    X = test_set[test.names.index(name)]["X"]
    all_scores = patch_scores(model, X) | {"patch logit": scores_of(name)["patch logit"]}
    for key in tested:
        first = key == tested[0]  # the random orders are the same for every score: once is enough
        curves = deletion_insertion(model, X, all_scores[key], steps=15, n_random=5 if first else 1)
        if name == example_name:
            example[key] = curves
        for kind in ["deletion", "insertion"]:
            areas.setdefault((key, kind), []).append(curves[kind].area)
            if first:
                areas.setdefault(("random order", kind), []).append(curves[f"random {kind}"].area)
print(f"{'area under the curve':22s} deletion (small is good)   insertion (large is good)")
for key in [*tested, "random order"]:
    print(
        f"{key:22s} {np.mean(areas[key, 'deletion']):.3f}                      {np.mean(areas[key, 'insertion']):.3f}"
    )

# %%
styles = {
    "attention x n": ("-", "o"),
    "logit contribution": ("--", "s"),
    "patch logit": ("-.", "D"),
    "gradient x input": (":", "^"),
}
if example:
    fig, axes = plt.subplots(1, 2, figsize=(11, 3), sharey=True)
    for ax, kind in zip(axes, ["deletion", "insertion"]):
        for key, curves in example.items():
            line, marker = styles[key]
            ax.plot(curves[kind].share, curves[kind].prob, line, marker=marker, ms=5, alpha=0.8, label=key)
        random = example["attention x n"][f"random {kind}"]
        ax.plot(random.share, random.prob, color="#777777", ls="--", label="random order")
        ax.set(
            title=f"{example_name}: {kind}",
            xlabel="share of patches " + ("gone" if kind == "deletion" else "there"),
            ylim=(0, 1.02),
        )
    axes[0].set_ylabel("tumour probability")
    axes[1].legend()
    plt.show()

# %% [markdown]
# *What to see: a coloured line below the grey one on the left, above it on the right, means that the score knows what the model
# uses. Lines that lie on each other are drawn with different marks. Where they all jump to 1 at once, insertion does not tell them apart.*
#
# Read the deletion column against its last row. On the synthetic slides **attention is hardly better than a random order there**, though its map looks so
# convincing, and the scores that include the classifier's opinion are far better: attention says where the model looks, not
# what it concludes. (This is one model on synthetic slides. Test your own.) A deletion curve may also **rise** again at its end. When the patches that the model looked at are gone, the softmax
# hands all weight to what is left, such as empty glass, and on glass the model's opinion is untrained.
#
# ### Two more checks
#
# Do other seeds look at the same places? And does a model that was trained on **shuffled labels**, which can know nothing of
# tumour, find any?

# %%
from mil_tutorial import bags_from_arrays, bags_in_memory, seed_agreement


few = bags_in_memory(dataset, patches=data.budget.patches, progress=False)


def train_again(bags, seed, **options):
    """Attention on the test slides of a model with another seed."""
    train_part, val_part = split_bags(bags, seed=seed)
    torch.manual_seed(seed)
    again = ABMIL(bags[0]["X"].shape[1])
    fit(again, make_loader(train_part, seed=seed), make_loader(val_part), progress=False, **options)
    return dict(zip(test.names, predict(again, make_loader(test_set)).attention))


others = [train_again(few, seed) for seed in [1, 2]]
agreement = [seed_agreement([attention[n], *(o[n] for o in others)]) for n in tumor_slides]
print(f"rank correlation of attention between three seeds, mean over tumour slides: {np.mean(agreement):.2f}")

# %%
found = []
for seed in range(4):
    wrong = [labels[i] for i in np.random.default_rng(seed).permutation(len(labels))]
    bags = bags_from_arrays([bag["X"] for bag in few], wrong)
    nothing = train_again(bags, seed, epochs=10)  # enough to learn its wrong labels
    found.append(np.nanmean([patch_metrics(y_inst[n], nothing[n])["auc"] for n in tumor_slides]))
right = np.nanmean([patch_metrics(y_inst[n], attention[n])["auc"] for n in tumor_slides])
print(f"patch AUC: right labels {right:.2f}, shuffled labels {[f'{auc:.2f}' for auc in found]}")

# %% [markdown]
# Do the seeds agree? Read the first number: 1 would be the same order of patches on every slide. Far below 1, a map of one seed is one
# opinion among several: show more than one, or their mean.
#
# A single run on shuffled labels can land well above or below 0.5: attention has to point somewhere, tumour looks unlike the
# rest, and so all tumour slides move together. What it must not do is land high every time.
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
for i, name in enumerate(test.names):
    detections[name] = localize_slide(model, test_set[i]["X"], test_set.read_patches(name)).detections
assert np.allclose(detections[wsi_name], by_hand, atol=1e-5)
print(f"{sum(map(len, detections.values()))} detections on {len(detections)} slides")

# %% [markdown]
# Then the **lesions**: connected drawings in the mask. Drawings nearer than 75 µm are one lesion. A lesion whose long axis is
# below 275 µm is *isolated tumour cells*, and counts neither way.

# %%
from concurrent.futures import ThreadPoolExecutor

from mil_tutorial import froc, lesions_from_mask

with ThreadPoolExecutor(2) as pool:  # synthetic masks are drawn now, two at a time
    masks = dict(zip(tumor_slides, pool.map(data.mask_path, tumor_slides)))
grids = {name: test_set.read_patches(name).geometry for name in masks}  # a mask may be a half of its slide's size
lesions = dict.fromkeys(test.names) | {
    name: lesions_from_mask(path, size=(grids[name].width, grids[name].height)) for name, path in masks.items()
}
for name in tumor_slides[:5]:
    found = lesions[name]  # None: the mask's coarse level shows no tumour
    print(
        f"{name}: {found.count if found else 0} lesions, {len(found.itc) if found else 0} more of isolated tumour cells"
    )
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

view_heatmap(
    open_slide(data.slide_path(wsi_name)), patches.coords, side, scores, labels=y_inst[wsi_name], title=wsi_name
)

# %% [markdown]
# The same as one file that opens without a network, and the patches for [QuPath](https://qupath.github.io): drag the GeoJSON
# onto the slide there.

# %%
from pathlib import Path

from mil_tutorial import write_geojson

out = Path("outputs")
view_heatmap(
    data.slide_path(wsi_name),
    patches.coords,
    side,
    scores,
    y_inst[wsi_name],
    title=wsi_name,
    html=out / f"{wsi_name}.html",
)
write_geojson(
    out / f"{wsi_name}.geojson",
    patches.coords,
    side,
    scores,
    labels=y_inst[wsi_name],
    regions=("attention x n", 3.0),  # patches with more than three fair shares
)
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
    patch_metrics(y_inst[name], rng.permutation(attention[name]))["auc"] for name in tumor_slides for _ in range(20)
]
print(f"patch AUC of shuffled attention: {np.nanmean(shuffled):.3f}")
assert abs(np.nanmean(shuffled) - 0.5) < 0.1

# %% [markdown]
# ## Exercises
#
# <!-- instructor, 9 min: Exercise 3 joins patches and FROC; do it together if time is short. -->
#
# **Exercise 1 (★).** Write `fair_share(raw)`: softmax of the raw attention times the number of patches.
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
# @title Solution of exercise 1
def fair_share(raw):
    e = np.exp(raw - raw.max())
    return e / e.sum() * len(raw)


assert check_fair_share(fair_share) == "Right.", check_fair_share(fair_share)
print(f"the patch with most attention has {fair_share(f).max():.1f} times its fair share")

# %% [markdown]
# **Exercise 2 (★★).** The **pointing game**: on which share of the tumour slides is the patch with the highest score a tumour
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
# @title Solution of exercise 2
def pointing_game(scores, truths):
    return np.mean([truth[score.argmax()] == 1 for score, truth in zip(scores, truths)])


assert check_pointing_game(pointing_game) == "Right.", check_pointing_game(pointing_game)
hits = pointing_game([attention[name] for name in tumor_slides], [y_inst[name] for name in tumor_slides])
print(f"attention points at tumour on {hits:.0%} of the tumour slides")

# %% [markdown]
# **Exercise 3 (★★★).** FROC wants points, not patches. Write `find_peaks(score, coords, radius)`: take the patch of highest score, drop all
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
# @title Solution of exercise 3
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
# - **Patch AUC** asks for the order of patches, **FROC** for lesions found and false alarms.
# - Results leave in level-0 pixels, so that viewer, QuPath and masks agree.
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
# - P. Bankhead et al., *QuPath: Open source software for digital pathology image analysis*, Scientific Reports 7 (2017), [doi:10.1038/s41598-017-17204-5](https://doi.org/10.1038/s41598-017-17204-5).
#
# **You have been through the course.** You can now point `MIL_TUTORIAL_DATA` at your own slides, or at CAMELYON16.

# %% tags=["result"]
hits = np.mean([y_inst[name][attention[name].argmax()] == 1 for name in tumor_slides])
print(
    f"Key result: patch AUC {patch_auc:.3f}, attention points at tumour on {hits:.0%} of tumour slides, FROC {result.score:.3f}"
)
