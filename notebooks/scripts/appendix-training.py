# %% [markdown]
# # Appendix · More on training
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mil-tutorial/mil-tutorial/blob/main/notebooks/appendix-training.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/mil-tutorial/mil-tutorial/main?labpath=notebooks/appendix-training.ipynb)
#
# **Course: Multiple Instance Learning for whole-slide images** · for after notebook 4, in any order; no exercise and no quiz
#
# | | |
# |---|---|
# | **What is here** | when one class is rare · one file for all bags · when the computer stops · numbers of 16 bits · which models may be padded · a zoo of models |
# | **You need** | notebook 4 (necessary) |
# | **Time** | about 20 minutes to read |
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

# %%
import time

import numpy as np
import pandas as pd
import torch

from mil_tutorial import ABMIL, collate_fn, fit, make_loader, open_data, pick_device, split_bags

device = pick_device()
data = open_data()
train_set, val_set = split_bags(data.bags("train", load_at_init=data.synthetic), seed=1234)
val_loader, in_dim = make_loader(val_set), train_set[0]["X"].shape[1]
print(f"{len(train_set)} training and {len(val_set)} validation slides, on {device}")

# %% [markdown]
# ## When one class is rare
#
# With nine normal slides for each tumour slide, a model that always says "normal" is right nine times in ten. Two remedies:
# weigh the rare class more in the loss, or draw it more often.

# %%
from mil_tutorial import balanced_sampler, positive_weight

print(f"normal for each tumour slide: {positive_weight(train_set.get_bag_labels()):.2f}   -> fit(..., pos_weight=...)")
rare = [1] * 7 + [0] * 63  # one slide in ten
drawn = [np.mean([rare[i] for i in balanced_sampler(rare, seed)]) for seed in range(20)]
print(f"share of tumour slides: {np.mean(rare):.2f}, drawn by the balanced sampler in 20 epochs: {np.mean(drawn):.2f}")

# %% [markdown]
# ## Read faster: pack once
#
# TRIDENT stores each patch in a piece of its own. Reading a bag of 6 000 patches means 6 000 small reads. `pack` copies all bags
# into **one file**, one behind the other, and **maps** it: the operating system reads a part of the file when a number in it is
# first used, and all processes share that part. Nothing is loaded before it is needed.


# %%
from mil_tutorial import TridentWSIDataset, pack


def seconds_to_read(packed):
    """Read all bags once."""
    bags = TridentWSIDataset(
        data.trident_dir, data.root / "wsi_labels.csv", data.encoder, bag_keys=["X"], packed=packed
    )
    start = time.perf_counter()
    for i in range(len(bags)):
        bags[i]["X"].sum()
    return time.perf_counter() - start


# %%
if data.synthetic:  # on your own data this writes a file as large as the features: call it yourself
    store = pack(data.trident_dir, data.encoder, progress=False)
    print(f"{len(store.slides)} slides, {len(store.features)} patches in {store.features.nbytes / 1e6:.0f} MB")
    slow, fast = seconds_to_read(packed=False), seconds_to_read(packed=True)
    print(f"all bags: {slow:.2f} s from TRIDENT's files, {fast:.3f} s packed")

# %% [markdown]
# From now on `TridentWSIDataset` uses the store by itself. It remembers size and date of the files that it was made from; if one
# of them changes, it says so and reads the files again. The command is `mil-tutorial pack`.

# %% [markdown]
# ## When the computer stops in the middle
#
# A run over real slides takes hours. `checkpoint` names a folder for its state; `resume=True` goes on from there. The weights
# at the end must be those of a run that nobody stopped. We check it: three epochs, stop, three more, against six in one go.


# %%
class StopAfter:
    """A logger that pulls the plug."""

    def __init__(self, epoch):
        self.epoch = epoch

    def log(self, record):
        if record["epoch"] == self.epoch:
            raise KeyboardInterrupt


def six_epochs(folder, **options):
    torch.manual_seed(0)
    model = ABMIL(in_dim)
    loader = make_loader(train_set.subset(range(16)), seed=0)
    fit(model, loader, val_loader, epochs=6, device=device, checkpoint=folder, progress=False, **options)
    return model


# %%
import tempfile

with tempfile.TemporaryDirectory() as folder:
    uninterrupted = six_epochs(f"{folder}/a")
    try:
        six_epochs(f"{folder}/b", logger=StopAfter(3))
    except KeyboardInterrupt:
        print("stopped in epoch 4")
    resumed = six_epochs(f"{folder}/b", resume=True)
pairs = zip(uninterrupted.state_dict().values(), resumed.state_dict().values())
same = all(torch.equal(a, b) for a, b in pairs)
print("the same weights as without the stop:", same)
assert same or device.type != "cpu"  # a GPU may add in another order

# %% [markdown]
# ## Numbers of 16 bits
#
# GPUs and some processors multiply numbers of 16 bits (`bfloat16`) faster than numbers of 32 bits. Others have no such unit, and are
# slower with them. `precision="auto"` uses them for the large products only where the device has the unit; sums stay in 32 bits. Here both
# are forced, so that you see what your machine does:

# %%
runs = {}
for precision in ["float32", "bfloat16"]:
    torch.manual_seed(0)
    loader, start = make_loader(train_set, seed=0), time.perf_counter()
    runs[precision] = fit(
        ABMIL(in_dim), loader, val_loader, epochs=3, device=device, precision=precision, progress=False
    )
    losses = ", ".join(f"{loss:.3f}" for loss in runs[precision].val_loss)
    print(f"{precision}: {time.perf_counter() - start:.1f} s, validation loss {losses}")
difference = np.abs(np.array(runs["float32"].val_loss) - runs["bfloat16"].val_loss).max()
print(f"largest difference of the loss: {difference:.4f}")

# %% [markdown]
# The losses are nearly the same. Which one was faster? On a processor without the unit it is float32. Where there is one, the gain
# shows with bags of thousands of patches, not with ours.
#
# ## Which models may be padded?
#
# torchmil has many models with one calling form, so `fit` trains them as they are. But first a question that decides how to
# batch: **does a model's answer change when its bag is padded?** It should not. We ask models with random weights, on
# four validation bags, with as much padding as there are patches.

# %%
import inspect

from torchmil import models as zoo


def call(function, batch):
    """Call a model with those entries of the batch that it takes."""
    return function(**{k: v for k, v in batch.items() if k in inspect.signature(function).parameters})


def pad(batch, n):
    """The same bag with n rows of padding."""
    padded = {k: torch.cat([v, v.new_zeros(1, n, *v.shape[2:])], 1) for k, v in batch.items() if k != "Y"}
    return {**padded, "Y": batch["Y"]}


def logit_and_loss(network, batch):
    loss = sum(call(network.compute_loss, batch)[1].values())
    return np.array([float(call(network.forward, batch)), float(loss)])


# %%
bags = [collate_fn([val_set[i]]) for i in range(4)]
bags = [{key: value[:, :500] if key != "Y" else value for key, value in bag.items()} for bag in bags]
rows = {}
for name in ["ABMIL", "TransformerABMIL", "DSMIL", "CLAM_SB", "TransMIL"]:
    torch.manual_seed(0)
    network = getattr(zoo, name)(in_shape=(in_dim,)).eval()
    with torch.inference_mode():
        longer = [(bag, pad(bag, bag["X"].shape[1])) for bag in bags]  # half of it is padding
        change = [abs(logit_and_loss(network, bag) - logit_and_loss(network, padded)) for bag, padded in longer]
    rows[name] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "takes a mask": "mask" in inspect.signature(network.forward).parameters,
        "logit changes by": round(np.max(change, 0)[0], 6),
        "loss changes by": round(np.max(change, 0)[1], 6),
    }
pd.DataFrame(rows).T

# %% [markdown]
# *What to see: only a row with two zeros may be trained and scored in padded batches. TransMIL takes no mask at all. CLAM's loss
# also looks at the patches of lowest attention, and padding is among them. For such models the size of the neighbour in the batch would
# change a patient's result. The way out is simple: one bag at a time, so that nothing is padded.*
#
# ## A zoo of models
#
# Now torchmil's ABMIL and DSMIL, our ABMIL and our two baselines, one bag at a time, each from two seeds. They are compared on the
# **validation** slides. These chose the epoch as well, so that all numbers flatter a little.

# %%
from mil_tutorial import MaxPool, MeanPool

candidates = {
    "our ABMIL": lambda: ABMIL(in_dim),
    "mean pooling": lambda: MeanPool(in_dim),
    "max pooling": lambda: MaxPool(in_dim),
    "torchmil ABMIL": lambda: zoo.ABMIL(in_shape=(in_dim,)),
    "torchmil DSMIL": lambda: zoo.DSMIL(in_shape=(in_dim,)),
}


def validation_auc(make, seed):
    """AUC of the best epoch of a short run."""
    torch.manual_seed(seed)
    loaders = make_loader(train_set, 1, seed=seed), make_loader(val_set, batch_size=1)
    run = fit(make(), *loaders, epochs=6, lr=5e-4, device=device, progress=False)
    return run.val_auc[run.best_epoch]


# %%
rows = {}
for name, make in candidates.items():
    start = time.perf_counter()
    aucs = [validation_auc(make, seed) for seed in [0, 1]]
    rows[name] = {
        "validation AUC, mean of 2 seeds": round(np.mean(aucs), 3),
        "spread": round(np.ptp(aucs), 3),
        "seconds a run": round((time.perf_counter() - start) / 2, 1),
        "MB of weights": round(sum(p.numel() for p in make().parameters()) * 4 / 1e6, 2),
    }
pd.DataFrame(rows).T

# %% [markdown]
# *What to see: 18 validation slides cannot rank five models. "our ABMIL" and "torchmil ABMIL" are even the same model from other
# first weights, and two seeds hide how much luck there is. A table like this, without intervals, says which models can be trained at
# all, and no more. Notebook 5 shows what to do about it; `benchmarks/zoo.py` trains more models from more seeds.*
#
# ### References
#
# - B. Li, Y. Li, K. W. Eliceiri, *Dual-stream Multiple Instance Learning Network for Whole Slide Image Classification*, CVPR 2021, [arXiv:2011.08939](https://arxiv.org/abs/2011.08939). DSMIL.
# - Z. Shao et al., *TransMIL: Transformer based Correlated Multiple Instance Learning for Whole Slide Image Classification*, NeurIPS 2021, [arXiv:2106.00908](https://arxiv.org/abs/2106.00908).

# %% tags=["result"]
best = max(rows, key=lambda name: rows[name]["validation AUC, mean of 2 seeds"])
print(
    f"Key result: resumed weights the same: {same}; {len(rows)} models trained, {len(val_set)} slides cannot rank them"
)
