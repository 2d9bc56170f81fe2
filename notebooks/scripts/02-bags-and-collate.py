# %% [markdown]
# # 2 · Bags and batches
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mil-tutorial/mil-tutorial/blob/main/notebooks/02-bags-and-collate.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/mil-tutorial/mil-tutorial/main?labpath=notebooks/02-bags-and-collate.ipynb)
#
# **Course: Multiple Instance Learning for whole-slide images** · notebook 2 of 6
#
# | | |
# |---|---|
# | **You will be able to** | say what a bag is · load bags from TRIDENT's files · split them by patient, without leaks · batch bags of different sizes, padded and packed |
# | **You need** | notebook 1, and PyTorch tensors (necessary) · `DataLoader` (helpful) |
# | **Time** | about 45 minutes to read and do |
# | **Measured** | runs in 6 s and takes 0.6 GB of memory, on two CPU cores |
# | **Data** | features of the synthetic slides, which ship with the course |


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
# ## A bag, and one label for all of it
#
# <!-- instructor, 4 min: Draw a bag on the board. Say it twice: the label belongs to the bag, never to the patch. -->
#
# A pathologist says "this slide has a metastasis". Nobody says where. So we have **one label for a bag of patches**. In
# Multiple Instance Learning (MIL) the slide is the **bag**, a patch is an **instance**. The usual assumption:
#
# $$Y = \max(y_1, \dots, y_n)$$
#
# A bag is positive if at least one of its instances is. We see $Y$. The $y_i$ stay hidden while we train.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

rng = np.random.default_rng(0)
fig, axes = plt.subplots(1, 2, figsize=(9, 2.6))
for ax, n_positive, title in zip(axes, [0, 2], ["Y = 0: no instance is positive", "Y = 1: at least one is"]):
    x, y = rng.uniform(0, 10, (2, 24))
    color = ["#D55E00"] * n_positive + ["#0072B2"] * (24 - n_positive)
    ax.scatter(x, y, s=160, c=color, marker="s")
    ax.set(title=title, xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(True)
plt.show()

# %% [markdown]
# *What to see: each frame is a bag, each square an instance. The model is told what stands above the frame. It is not told the
# colours, nor how many are orange.*
#
# ## Build one bag by hand
#
# <!-- instructor, 6 min: Common mistake: features and coordinates read in different orders. Show that nothing would complain. -->
#
# All that a bag needs lies in three files of one slide: features, coordinates, patch labels.

# %%
import h5py

from mil_tutorial import open_data

data = open_data()
encoder = data.encoders[0]
train_names = data.split("train")["wsi_name"].tolist()
name = train_names[-1]

with h5py.File(data.trident_dir / f"features_{encoder}" / f"{name}.h5") as file:
    X = torch.from_numpy(file["features"][:].astype(np.float32))
with h5py.File(data.trident_dir / "patches" / f"{name}_patches.h5") as file:
    corners = file["coords"][:]
    step = int(file["coords"].attrs["patch_size_level0"])
with h5py.File(data.trident_dir / "patch_labels" / f"{name}.h5") as file:
    y_inst = torch.from_numpy(file["patch_labels"][:].astype(np.int64))

# %%
places = torch.from_numpy((corners - corners.min(0)) / step)  # column and row in the grid, from 0
coords = places.round().long()

print(f"{name}, encoder {encoder}")
print("X     ", tuple(X.shape), "one row of features for each patch")
print("coords", tuple(coords.shape), "column and row of each patch")
print("y_inst", tuple(y_inst.shape), f"hidden while training; here {int((y_inst == 1).sum())} patches are tumour")

# %% [markdown]
# ### Which patches touch?
#
# Some models look at neighbours. They want an **adjacency matrix**: entry $(i, j)$ is not zero if patches $i$ and $j$ touch.
# By hand, with two loops, for this one slide (of a large one for its first 200 patches):

# %%
n = min(len(coords), 200)
A = torch.zeros(n, n)
for i in range(n):
    for j in range(n):
        distance = (places[i] - places[j]).norm()
        if i != j and distance < 1.05 * 2**0.5:  # the eight places around a patch are at most sqrt(2) = 1.41 away
            A[i, j] = 1
degree = A.sum(1)
# Divide by both degrees, so that a patch with many neighbours does not dominate.
A_normalized = A / torch.sqrt(degree[:, None] * degree[None]).clamp(min=1)

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.6))
for i, j in A.nonzero().tolist():
    axes[0].plot(coords[[i, j], 0], coords[[i, j], 1], color="#999999", lw=0.8, zorder=0)
axes[0].scatter(coords[:n, 0], coords[:n, 1], s=50, c=np.where(y_inst[:n] == 1, "#D55E00", "#0072B2"))
axes[0].invert_yaxis()
axes[0].set(title="Patches and who touches whom", aspect="equal", xticks=[], yticks=[])
axes[1].imshow(A_normalized, cmap="Greys")
axes[1].set(
    title=f"The same as a matrix: {A.count_nonzero() / n**2:.0%} of it is not zero", xlabel="patch", ylabel="patch"
)
plt.show()

# %% [markdown]
# *What to see: on the left the grid of patches, tumour in orange. On the right the matrix: most of it is 0. For 10 000 patches
# it would have 100 million entries, so it is kept sparse: only entries that are not zero are stored.*
#
# ## The finished form
#
# <!-- instructor, 4 min: Let them compare the two line by line. The class adds checks, no ideas. -->
#
# `TridentWSIDataset` does this for every slide, when you ask for it. It takes the same call as torchmil's class of that name.

# %%
from mil_tutorial import TridentWSIDataset, build_adjacency

dataset = TridentWSIDataset(
    base_path=data.trident_dir,
    labels_path=data.root / "wsi_labels.csv",
    feature_extractor=encoder,
    wsi_names=train_names,
    bag_keys=["X", "Y", "y_inst", "adj", "coords"],
)
bag = dataset[dataset.get_bag_names().index(name)]
print("Bag type:", type(bag).__name__)
for key in bag.keys():
    print(f"{key:7s}", tuple(bag[key].shape), bag[key].dtype)

# %% [markdown]
# Checks that you can see: the finished form is our hand-made bag.

# %%
assert torch.equal(bag["X"], X)
on_grid = torch.equal(places, coords.double())  # not where each piece of tissue has its own grid, as CLAM cuts them
assert torch.equal(bag["coords"], coords) or not on_grid
assert torch.equal(bag["y_inst"], y_inst)
adj = bag["adj"] if n == len(coords) else build_adjacency(places[:n].numpy())  # what the class calls for each bag
assert torch.allclose(adj.to_dense(), A_normalized, atol=1e-6)
print("features, coordinates, labels and adjacency are equal")

# %% [markdown]
# ## A split that does not leak
#
# <!-- instructor, 5 min: Ask for other leaks: same hospital, same day of staining, consecutive cuts of one node. -->
#
# A fifth of the training slides becomes the **validation** set. It chooses the best epoch and the threshold: both come in
# notebooks 4 and 5. The **test** set is not touched before notebook 5, and chooses nothing there. Whole *slides* are drawn, never
# patches: two patches of one slide look alike, and a model could recognise the slide in place of the tumour. `stratify` keeps the
# share of tumour slides equal on both sides.

# %%
from sklearn.model_selection import train_test_split

bag_labels = dataset.get_bag_labels()
index_train, index_val = train_test_split(range(len(dataset)), test_size=0.2, random_state=1234, stratify=bag_labels)
train_set, val_set = dataset.subset(index_train), dataset.subset(index_val)
for title, part in [("train", train_set), ("validation", val_set)]:
    print(f"{title:10s} {len(part):3d} slides, {np.mean(part.get_bag_labels()):.0%} with tumour")
assert not set(train_set.get_bag_names()) & set(val_set.get_bag_names())

# %% [markdown]
# ### One patient, several slides
#
# <!-- instructor, 5 min: The commonest real leak. Ask who knows how many slides a patient has in their own data. -->
#
# Here each synthetic slide counts as a patient of its own. In a hospital it is not so: CAMELYON17 has five slides of each
# patient. Two slides of one patient share the tissue, the staining and the day. If one is in training and the other in
# validation, the model can recognise the **patient**.
#
# How bad is it? A made-up study: 60 patients with 5 slides each. The features of a slide tell who the patient is, and **nothing
# about the disease**: the labels of the patients are drawn at random. We measure the **AUC**: of all pairs of a sick and a
# healthy slide, the share in which the sick one gets the higher score. A perfect model has 1, a coin 0.5. Here an honest AUC is
# 0.5.
#
# > **Predict:** what will the AUC be if we draw slides at random and do not ask whose they are?

# %%
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score


def made_up_study(seed):
    """Features (300, 40), labels and patients of 300 slides; the labels cannot be told from the features."""
    rng = np.random.default_rng(seed)
    patient, sick = np.repeat(np.arange(60), 5), rng.permutation(np.arange(60) % 2)
    return rng.normal(size=(60, 40))[patient] + 0.5 * rng.normal(size=(300, 40)), sick[patient], patient


def auc_of_split(features, labels, rows_train, rows_val):
    model = LogisticRegression(max_iter=1000).fit(features[rows_train], labels[rows_train])
    return roc_auc_score(labels[rows_val], model.decision_function(features[rows_val]))


# %%
from mil_tutorial import split_by_patient

by_slide, by_patient = [], []
for seed in range(20):
    features, labels, patient = made_up_study(seed)
    slides = train_test_split(range(300), test_size=0.3, random_state=seed, stratify=labels)
    by_slide.append(auc_of_split(features, labels, *slides))
    patients = split_by_patient(labels.tolist(), patient.tolist(), fraction=0.3, seed=seed)
    by_patient.append(auc_of_split(features, labels, *patients))
for title, aucs in [("slides drawn", by_slide), ("patients drawn", by_patient)]:
    low, high = np.quantile(aucs, [0.025, 0.975])
    print(f"{title:15s} AUC {np.mean(aucs):.2f}, 95 % of 20 studies between {low:.2f} and {high:.2f}")

# %% [markdown]
# The first line looks like a discovery. It is a leak: nothing can be learnt from these features. The interval of the second
# contains 0.5, as it should.
#
# The remedy is one column. If `wsi_labels.csv` has a column **`case_id`** that names the patient of each slide, then
# `split_bags`, `mil-tutorial train` and `mil-tutorial repeat` keep all slides of a patient on one side, and `mil-tutorial check`
# names a patient who is on both. `mil-tutorial split <data root>` writes `train.csv` and `test.csv` by the same rule. A patient
# counts as sick if one of their slides is, and the share of sick patients is kept equal on both sides.

# %%
from mil_tutorial import split_bags

again_train, again_val = split_bags(dataset, seed=1234)  # by patient, stratified; here each slide is a patient
assert again_val.get_bag_names() == val_set.get_bag_names()
print(f"{len(set(dataset.get_bag_cases()))} patients with {len(dataset)} slides; split_bags gives the split from above")

# %% [markdown]
# ## Bags have different sizes
#
# <!-- instructor, 8 min: Ask for a guess before the plot: how much of a padded batch of 32 is padding? Most say too little. -->
#
# A tensor is a box with straight sides. Bags are not. There are two ways out: fill up the small bags (**padding**), or lay all
# bags in one long row (**packing**).
#
# > **Predict:** 32 bags of 2 000 to 10 000 patches are padded. How much of the memory is filled with nothing?
#
# Padding fills small bags with zeros up to the size of the largest. A **mask** remembers which rows are real. By hand:

# %%
bags = [train_set[i] for i in range(4)]
sizes = [len(b["X"]) for b in bags]
N, D = max(sizes), bags[0]["X"].shape[1]
X_padded = torch.zeros(len(bags), N, D)  # (B, N, D)
mask = torch.zeros(len(bags), N, dtype=torch.bool)  # (B, N)
for i, b in enumerate(bags):
    X_padded[i, : sizes[i]] = b["X"]
    mask[i, : sizes[i]] = True
print("bag sizes", sizes, "-> padded", tuple(X_padded.shape))

# %%
from mil_tutorial import collate_fn

batch = collate_fn(bags)
print("Batch type:", type(batch).__name__)
for key in batch.keys():
    print(f"{key:7s}", tuple(batch[key].shape), batch[key].dtype)
assert torch.equal(batch["X"], X_padded) and torch.equal(batch["mask"], mask)

# %% [markdown]
# Packing lays the bags one behind the other and remembers where each begins, in `offsets`. Nothing is wasted.

# %%
from mil_tutorial import collate_packed

packed = collate_packed(bags)
print("X      ", tuple(packed["X"].shape))
print("offsets", packed["offsets"].tolist())
assert torch.equal(packed["X"], torch.cat([b["X"] for b in bags]))


# %%
def draw_batch(ax, sizes, width, title):
    for i, size in enumerate(sizes):
        ax.barh(i, size, color="#0072B2")
        ax.barh(i, width - size, left=size, color="#DDDDDD")
    ax.set(title=title, xlabel="patches", yticks=range(len(sizes)), yticklabels=[f"bag {i}" for i in range(len(sizes))])
    ax.invert_yaxis()


# Bags of real slides are larger. These sizes are made up: 400 bags of 2 000 to 10 000 patches, as many as CAMELYON16 has.
rng = np.random.default_rng(0)
large = rng.integers(2000, 10_001, 400)
gigabytes = 768 * 4 / 1e9  # one patch: 768 numbers of 4 bytes
batch_sizes = [1, 2, 4, 8, 16, 32]
drawn = [rng.choice(large, (200, size)) for size in batch_sizes]  # 200 batches of each size
padded_memory = [np.mean(d.max(1) * d.shape[1]) * gigabytes for d in drawn]
packed_memory = [np.mean(d.sum(1)) * gigabytes for d in drawn]
waste = 1 - packed_memory[-1] / padded_memory[-1]

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 2.8))
draw_batch(
    axes[0], sizes, max(sizes), f"Ours: {int((~batch['mask']).sum())} of {batch['mask'].numel()} rows are padding"
)
axes[1].plot(batch_sizes, padded_memory, "o-", label="padded")
axes[1].plot(batch_sizes, packed_memory, "o-", label="packed")
axes[1].set(
    title=f"Made-up bags of real size: with 32 at once, {waste:.0%} is padding", xlabel="bags in a batch", ylabel="GB"
)
axes[1].legend()
plt.show()

# %% [markdown]
# *What to see: grey is padding: memory and time for nothing. On the right, bags with made-up sizes like those of real slides: the
# two lines part. The more bags in a batch, the larger its largest one, and all others are filled up to it. So many people train
# with one bag at a time, or with packed bags.*

# %% [markdown]
# ### Exercise 1 (★): beat that number
#
# <!-- instructor, 4 min: Then ask for the price: batches of equal sizes always hold the same slides together. -->
#
# The 400 large bags are put into batches of 32, in the order in which they come. The next cell prints how much of that is
# padding. **Find a better order**, with **less than 5 %** of padding. `large` holds the sizes of the bags. Give the numbers of
# the bags, 0 to 399, each once, in your order.
#
# <details><summary>Hint</summary>A batch wastes little when its bags are alike. <code>np.argsort</code> gives an order.</details>


# %%
def padding_of(order, batch=32):
    """The share of all rows that is padding, when bags in this order are cut into batches."""
    batches = [large[order[i : i + batch]] for i in range(0, len(order), batch)]
    return 1 - sum(b.sum() for b in batches) / sum(b.max() * len(b) for b in batches)


print(f"in the order in which they come: {padding_of(np.arange(len(large))):.0%} is padding")

# %% tags=["exercise"]
my_order = None  # write an order here


# %% tags=["check"]
from mil_tutorial.exercises import notebook_2 as check

check.my_order(my_order, large)

# %% tags=["solution"]
# @title Solution of exercise 1
my_order = np.argsort(large)
assert check.my_order.accepts(my_order, large)
print(f"{padding_of(my_order):.1%} is padding")

# %% [markdown]
# This has a price: bags of the same size are then always together, and the order of training is no longer random.
#
# ## Loaders
#
# <!-- instructor, 2 min: If someone asks about workers: the packed store is shared, not copied. -->
#
# A `DataLoader` draws bags and hands them to the collate function. An explicit generator makes the order repeatable.

# %%
from torch.utils.data import DataLoader

train_loader = DataLoader(
    train_set, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0), collate_fn=collate_fn
)
batch = next(iter(train_loader))
print("labels of the first batch:", batch["Y"].tolist())
print("real patches of each bag: ", batch["mask"].sum(1).tolist())

# %% [markdown]
# Bags and loader are built by hand this once. From notebook 3 on, `data.bags("train")` is the dataset above and `make_loader` the
# loader:

# %%
from mil_tutorial import make_loader

from_package = next(iter(make_loader(data.bags("train").subset(index_train), seed=0)))
assert torch.equal(from_package["X"], batch["X"]) and torch.equal(from_package["Y"], batch["Y"])
print("the package gives the same first batch")

# %% [markdown]
# ## In torchmil
#
# <!-- instructor, 2 min: Same numbers, other library. Nothing in the course depends on ours. -->
#
# torchmil's classes read the same files. They keep all bags in memory. Their `Y` has the shape (B, 1), although torchmil's own
# models want (B,). The values are equal:

# %%
from torchmil.data import collate_fn as their_collate
from torchmil.datasets import TridentWSIDataset as TheirDataset

torch.sparse.check_sparse_tensor_invariants.enable()  # torch asks: are torchmil's sparse matrices to be checked? Yes
theirs = TheirDataset(
    base_path=f"{data.trident_dir}/",  # torchmil glues strings, so the slash must be there
    labels_path=str(data.root / "wsi_labels.csv"),
    feature_extractor=encoder,
    patch_labels_path=f"{data.trident_dir / 'patch_labels'}/",
    wsi_names=train_names[: 2 if data.budget.large else 4],
    bag_keys=["X", "Y", "y_inst", "adj", "coords"] if on_grid else ["X", "Y", "y_inst"],  # it takes places as cells
    patch_size=step,
    load_at_init=False,
    wsi_name_col="wsi_name",
    wsi_label_col="wsi_label",
)

# %%
ours = dataset.subset([dataset.get_bag_names().index(n) for n in theirs.get_bag_names()])
for i in range(len(theirs)):
    a, b = theirs[i], ours[i]
    assert torch.allclose(a["X"].float(), b["X"])
    assert a["y_inst"].tolist() == b["y_inst"].tolist() and int(a["Y"]) == int(b["Y"])
    if on_grid:  # torchmil moves every patch onto one grid
        assert torch.allclose(a["adj"].to_dense().float(), b["adj"].to_dense(), atol=1e-6)
        assert torch.equal(a["coords"] - a["coords"].min(0).values, b["coords"])
their_batch = their_collate([theirs[i] for i in range(len(theirs))])
assert torch.equal(their_batch["mask"].bool(), collate_fn([ours[i] for i in range(len(theirs))])["mask"])
print("bags, adjacency and masks agree with torchmil's")

# %% [markdown]
# ## What can go wrong
#
# - **A slide without tissue** gives an empty bag. It has no answer, and our collate function refuses it.
# - **Features and coordinates from different runs.** Row 17 is then another patch. Our reader compares coordinates row by row.
# - **Patches split, not slides.** Notebook 5 shows what that does to a score.

# %%
from tensordict import TensorDict

try:
    collate_fn(
        [
            bags[0],
            TensorDict(
                {"X": torch.zeros(0, D), "Y": torch.tensor(0.0), "y_inst": torch.zeros(0), "coords": torch.zeros(0, 2)}
            ),
        ]
    )
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# ## Exercises
#
# <!-- instructor, 4 min: Exercise 2 shows who has understood offsets. Exercise 3 is homework in the three-hour plan. -->
#
# **Exercise 2 (★★).** Write `unpack(X, offsets)`: from a packed batch back to a list of bags.
#
# <details><summary>Hint</summary><code>offsets[0]</code> says in which row the first bag begins. Which number says where it ends? How many bags are there?</details>


# %% tags=["exercise"]
def unpack(X, offsets):
    """A list of bags. With the offsets [0, 3, 5] it has two bags, of 3 and of 2 rows."""
    # Write your code here.


# %% tags=["check"]
from mil_tutorial.exercises import notebook_2 as check

check.unpack(unpack)


# %% tags=["solution"]
# @title Solution of exercise 2
def unpack(X, offsets):
    return [X[start:end] for start, end in zip(offsets[:-1], offsets[1:])]


assert check.unpack.accepts(unpack)
print("four bags out, as four went in")

# %% [markdown]
# **Exercise 3 (★★★). A leak that a reader reports.** CAMELYON+ ([Scientific Data
# 2025](https://doi.org/10.1038/s41597-025-05586-5)) cleaned CAMELYON16 and 17 and compared many MIL models by cross-validation.
# The paper promises a rule: slides of one patient that have **the same label** are never on both sides. A reader
# [reports](https://github.com/lingxitong/MIL_BASELINE/issues/46) that the first published fold breaks it, for 114 pairs of
# patient and label. (That was in June 2026; there was no answer yet when we looked.) The script for such folds calls
# scikit-learn's `StratifiedKFold` on slides. It knows nothing about patients.
#
# Would the promised rule be enough? No: a healthy and a sick slide of one patient may still be on different sides. Write the
# split that cannot leak in this way: `split_patients(patients, n_val, seed)`. `patients` holds one name for each slide. Put
# `n_val` patients, drawn at random, with all their slides into the validation set. Return two lists of slide numbers.
#
# <details><summary>Hint</summary>Draw patients, not slides: <code>np.random.default_rng(seed).permutation(sorted(set(patients)))</code>. Then ask of each slide whether its patient was drawn.</details>


# %% tags=["exercise"]
def split_patients(patients, n_val, seed):
    """Two lists of slide numbers. With ["ann", "ben", "ann"] and n_val=1: ([1], [0, 2]) or ([0, 2], [1])."""
    # Write your code here.


# %% tags=["check"]
from mil_tutorial.exercises import notebook_2 as check

check.split_patients(split_patients)


# %% tags=["solution"]
# @title Solution of exercise 3
def split_patients(patients, n_val, seed):
    drawn = set(np.random.default_rng(seed).permutation(sorted(set(patients)))[:n_val])
    val = [i for i, name in enumerate(patients) if name in drawn]
    return [i for i in range(len(patients)) if i not in val], val


assert check.split_patients.accepts(split_patients)
print(split_patients(["ann", "ben", "ann", "cem"], 1, seed=0))

# %% [markdown]
# ## Recap
#
# - A **bag** is a slide; its label is all that training sees.
# - Split **patients**, stratified by label; the test set waits.
# - **Padding** needs a mask and wastes memory; **packing** needs offsets and wastes nothing.
# - The adjacency matrix is sparse, and is built only when asked for.
#
# | DO | DON'T |
# |---|---|
# | split by **patient**: a column `case_id` | split patches, or slides of one patient |
# | keep the test set closed | choose epoch, threshold or model on it |
# | carry a mask wherever there is padding | read zeros as patches |
# | read features and coordinates of one run | join files of two runs by their row numbers |
# | predict in a fixed order | shuffle a loader that you predict with |
#
# ### Quiz
#
# {quiz}

# %% tags=["quiz"]
from mil_tutorial.exercises.quizzes import answer_quiz

answer_quiz(2, "")  # your five letters between the quotes: they are remembered on this computer, and nowhere else

# %% [markdown]
# ### References
#
# - T. G. Dietterich, R. H. Lathrop, T. Lozano-Pérez, *Solving the multiple instance problem with axis-parallel rectangles*,
#   Artificial Intelligence 89 (1997), [doi:10.1016/S0004-3702(96)00034-3](https://doi.org/10.1016/S0004-3702(96)00034-3). Where
#   bags come from.
# - X. Ling et al., *Towards a Comprehensive Benchmark for Pathological Lymph Node Metastasis in Breast Cancer Sections*
#   (CAMELYON+), [arXiv:2411.10752](https://arxiv.org/abs/2411.10752); Scientific Data 12 (2025),
#   [doi:10.1038/s41597-025-05586-5](https://doi.org/10.1038/s41597-025-05586-5).
# - N. Bussola, A. Marcolini, V. Maggio, G. Jurman, C. Furlanello, *AI slipping on tiles: data leakage in digital pathology*,
#   [arXiv:1909.06539](https://arxiv.org/abs/1909.06539). How much a leak flatters.
# - M. Y. Lu et al., *Data-efficient and weakly supervised computational pathology on whole-slide images*, Nature Biomedical
#   Engineering 5 (2021), [doi:10.1038/s41551-020-00682-w](https://doi.org/10.1038/s41551-020-00682-w).
#
# **Next:** notebook 3 builds a model that decides by itself which patches of a bag to look at.

# %% tags=["result"]
largest = max(len(train_set.read_patches(name).coords) for name in train_set.get_bag_names())
print(
    f"Key result: {len(train_set)} training and {len(val_set)} validation bags of up to {largest} patches x {D} features"
)
