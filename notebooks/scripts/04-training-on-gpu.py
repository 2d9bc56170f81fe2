# %% [markdown]
# # 4 · Training, on a GPU if there is one
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mil-tutorial/mil-tutorial/blob/main/notebooks/04-training-on-gpu.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/mil-tutorial/mil-tutorial/main?labpath=notebooks/04-training-on-gpu.ipynb)
#
# **Course: Multiple Instance Learning for whole-slide images** · notebook 4 of 6
#
# | | |
# |---|---|
# | **You will be able to** | write a training loop that is right · keep the best epoch · read learning curves · see and stop overfitting |
# | **You need** | notebook 3 (necessary) · notebook 2 (helpful) |
# | **Time** | about 45 minutes to read and do |
# | **Measured** | runs in 24 s and takes 0.7 GB of memory, on two CPU cores |
# | **Data** | features of the synthetic slides, which ship with the course |


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
# ## What training looks like when it goes well
#
# <!-- instructor, 4 min: Hide the curve and let them draw one. Collect three drawings. -->
#
# A model that learns gets better on the slides it trains on *and* on slides it does not. Two curves tell. We will draw them
# at the end of the next section. First the data and the device. The code is the same for both devices.

# %%
import copy
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.model_selection import train_test_split

from mil_tutorial import ABMIL, bags_in_memory, collate_fn, make_loader, open_data, pick_device, split_bags

device = pick_device()
print("training on", torch.cuda.get_device_name() if device.type == "cuda" else device)

data = open_data()
dataset = bags_in_memory(data.bags("train"), patches=data.budget.patches, progress=False)  # as notebook 2 built it
labels = dataset.get_bag_labels()
train_set, val_set = split_bags(dataset, seed=1234)  # a fifth for validation, stratified
in_dim = dataset[0]["X"].shape[1]
print(
    f"{len(train_set)} training and {len(val_set)} validation slides, {data.encoder}, {in_dim} features; {data.budget}"
)

# %% [markdown]
# Notebook 2 built a loader by hand. `make_loader` is that loader: four bags at a time, with a seed in an order that the seed
# decides, without one in order.

# %%
train_loader, val_loader = make_loader(train_set, seed=0), make_loader(val_set)

# %% [markdown]
# ## The loop by hand
#
# <!-- instructor, 8 min: Common mistakes: no model.eval(), no zero_grad(), the best weights kept by reference (so they go on changing). Make one of them on purpose. -->
#
# One **epoch** shows every training slide once. For each: forward, loss, gradients, one step of Adam. Then we look at the
# validation slides. Three things are easy to get wrong there, and the original's `Trainer` does not do the first two:
#
# 1. `model.eval()`: layers such as dropout behave differently when we only look.
# 2. `torch.inference_mode()`: no gradients are stored, which saves time and memory.
# 3. Keep a **copy** of the best weights. The best epoch need not be the last one; with few slides and large steps, further down, it is an early one.

# %%
EPOCHS = 20
LEARNING_RATE = 5e-4

torch.manual_seed(0)
model = ABMIL(in_dim).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
curves = {"train": [], "validation": []}
best_loss, best_weights = float("inf"), None

start = time.perf_counter()
for epoch in range(EPOCHS):
    model.train()
    total = 0.0
    for batch in train_loader:
        batch = batch.to(device)
        _, losses = model.compute_loss(batch["Y"], batch["X"], batch["mask"])
        loss = losses["BCEWithLogitsLoss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch["Y"])  # the loss is a mean over the bags of the batch
    curves["train"].append(total / len(train_set))

    model.eval()
    with torch.inference_mode():
        total = 0.0
        for batch in val_loader:
            batch = batch.to(device)
            _, losses = model.compute_loss(batch["Y"], batch["X"], batch["mask"])
            total += losses["BCEWithLogitsLoss"].item() * len(batch["Y"])
    curves["validation"].append(total / len(val_set))

    if curves["validation"][-1] < best_loss:
        best_loss, best_epoch = curves["validation"][-1], epoch
        best_weights = copy.deepcopy(model.state_dict())  # a copy: the weights go on changing

seconds = time.perf_counter() - start
model.load_state_dict(best_weights)
print(
    f"{EPOCHS} epochs in {seconds:.1f} s, {EPOCHS * len(train_set) / seconds:.0f} bags a second; best epoch {best_epoch + 1}"
)


# %%
def draw_curves(train, val, best, title, ax=None):
    ax = ax or plt.subplots(figsize=(7, 3))[1]
    epochs = np.arange(1, len(train) + 1)
    ax.plot(epochs, train, label="training slides")
    ax.plot(epochs, val, label="validation slides")
    ax.axvline(best + 1, color="black", lw=1, ls="--", label=f"best epoch: {best + 1}")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(title=title, xlabel="epoch", ylabel="loss", ylim=(0, None))
    ax.legend()


draw_curves(
    curves["train"], curves["validation"], best_epoch, "Training loss goes on falling, validation loss levels off"
)
plt.show()

# %% [markdown]
# *What to see: the loss of 0.69 at the start is that of a coin. The blue curve goes on falling. Where the orange one levels off,
# the model begins to learn its slides by heart; the dashed line marks the epoch whose weights are kept.*
#
# ## The finished form
#
# <!-- instructor, 4 min: Read the signature aloud; each argument answers a question that came up by hand. -->
#
# `fit` is this loop with a progress bar, early stopping and clear errors. With the same weights at the start and the same
# order of bags it gives the same losses.

# %%
from mil_tutorial import fit

torch.manual_seed(0)
again = ABMIL(in_dim)
history = fit(
    again,
    make_loader(train_set, seed=0),
    val_loader,
    epochs=EPOCHS,
    device=device,
    optimizer=torch.optim.Adam(again.to(device).parameters(), lr=LEARNING_RATE),
)
difference = np.abs(np.array(history.val_loss) - curves["validation"]).max()
print(f"largest difference to the loop by hand: {difference:.1e}")
assert difference < 1e-4 and history.best_epoch == best_epoch

# %% [markdown]
# ## Overfitting, on purpose
#
# <!-- instructor, 6 min: Ask first: how many slides are too few? -->
#
# Take few slides and many epochs. The model then learns by heart, because it can.

# %%
size = min(16, len(train_set) - 2)
few = train_set.subset(
    train_test_split(range(len(train_set)), train_size=size, random_state=0, stratify=train_set.get_bag_labels())[0]
)
long = 2 * EPOCHS
runs = {}
for title, lr in [(f"{size} slides, learning rate 2e-3", 2e-3), (f"{size} slides, smaller steps: 2e-4", 2e-4)]:
    torch.manual_seed(0)
    runs[title] = fit(
        ABMIL(in_dim),
        make_loader(few, seed=0),
        val_loader,
        epochs=long,
        lr=lr,
        weight_decay=0.0,
        device=device,
        progress=False,
    )

fig, axes = plt.subplots(1, 2, figsize=(12, 3), sharey=True)
for ax, (title, run) in zip(axes, runs.items()):
    draw_curves(run.train_loss, run.val_loss, run.best_epoch, title, ax)
plt.show()

# %% [markdown]
# *What to see: on the left training loss goes to zero while validation loss rises: the gap between the curves is what was
# learnt by heart. On the right, with smaller steps, it comes later.*
#
# ### When one class is rare
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
# ### When the computer stops in the middle
#
# A run over real slides takes hours. `checkpoint` names a folder for its state; `resume=True` goes on from there. The weights
# at the end must be those of a run that nobody stopped. We check it: three epochs, stop, three more, against six in one go.

# %%
import tempfile


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
    fit(
        model,
        make_loader(few, seed=0),
        val_loader,
        epochs=6,
        device=device,
        checkpoint=folder,
        progress=False,
        **options,
    )
    return model


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
# ### When it does not help any more
#
# `patience` stops when the validation loss has not improved for so many epochs:

# %%
torch.manual_seed(0)
stopped = fit(
    ABMIL(in_dim), make_loader(few, seed=0), val_loader, epochs=long, lr=2e-3, patience=5, device=device, progress=False
)
print(f"stopped after {len(stopped.val_loss)} of {long} epochs, with the weights of epoch {stopped.best_epoch + 1}")

# %% [markdown]
# ## A check that every project needs: shuffled labels
#
# <!-- instructor, 4 min: Ask for a bet: what AUC will shuffled labels give? With 27 validation slides everything from 0.3 to 0.7 is still chance. -->
#
# Give the slides random labels. Nothing can be learnt now, so a validation AUC far from 0.5 means that something leaks.
#
# > **Predict:** what will the *training* loss do?

# %%
from mil_tutorial import bags_from_arrays

aucs, last = [], None
for seed in range(3):
    order = np.random.default_rng(seed).permutation(len(labels))
    wrong = bags_from_arrays([bag["X"].numpy() for bag in dataset], [labels[i] for i in order])
    shuffled_train, shuffled_val = split_bags(wrong, seed=seed, val_fraction=0.3)
    torch.manual_seed(seed)
    last = fit(
        ABMIL(in_dim),
        make_loader(shuffled_train, seed=seed),
        make_loader(shuffled_val),
        epochs=10,
        lr=LEARNING_RATE,
        device=device,
        progress=False,
    )
    aucs.append(last.val_auc[-1])
print("validation AUC with shuffled labels:", [f"{auc:.2f}" for auc in aucs], f"mean {np.mean(aucs):.2f}")
print(f"training loss of the last run: {last.train_loss[0]:.2f} -> {last.train_loss[-1]:.2f}")

# %% [markdown]
# Three values on either side of 0.5, or all on one side: with so few slides both are chance. A training loss that falls all the
# same is learning by heart.
#
# ## CPU and GPU
#
# <!-- instructor, 3 min: Without a GPU, read and go on. -->
#
# A GPU pays when bags are large. Here is one training step on a made-up bag of the size of a real slide:


# %%
def seconds_per_step(device, patches=5000, features=768, steps=5):
    torch.manual_seed(0)
    step_model = ABMIL(features).to(device)
    step_optimizer = torch.optim.Adam(step_model.parameters())
    X, Y = torch.randn(1, patches, features).to(device), torch.ones(1).to(device)
    for i in range(steps + 1):
        if i == 1:  # the first step warms up
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
        step_optimizer.zero_grad()
        sum(step_model.compute_loss(Y, X)[1].values()).backward()
        step_optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()  # a GPU works on after the call returns; wait, or you time nothing
    return (time.perf_counter() - start) / steps


for kind in [torch.device("cpu")] + ([device] if device.type != "cpu" else []):
    print(f"{kind.type}: {seconds_per_step(kind) * 1000:.1f} ms for a bag of 5000 patches")
if device.type == "cpu":
    print("no GPU here; on Colab choose Runtime > Change runtime type, and run this notebook again")

# %% [markdown]
# **Half the digits.** GPUs and some processors multiply numbers of 16 bits (`bfloat16`) faster than numbers of 32 bits; others
# have no such unit, and are slower with them. `precision="auto"` uses them for the large products only where the device has
# the unit; sums stay in 32 bits. Here both are forced, so that you see what your machine does:

# %%
runs = {}
for precision in ["float32", "bfloat16"]:
    torch.manual_seed(0)
    start = time.perf_counter()
    runs[precision] = fit(
        ABMIL(in_dim), make_loader(train_set, seed=0), val_loader, epochs=5, lr=LEARNING_RATE, device=device,
        precision=precision, progress=False,
    )  # fmt: skip
    print(
        f"{precision}: {time.perf_counter() - start:.1f} s, validation loss {[f'{v:.3f}' for v in runs[precision].val_loss]}"
    )
difference = np.abs(np.array(runs["float32"].val_loss) - runs["bfloat16"].val_loss).max()
print(f"largest difference of the loss: {difference:.4f}")

# %% [markdown]
# The losses are nearly the same. Which one was faster? On a processor without the unit it is float32. Where there is one, the gain
# shows with bags of thousands of patches, not with ours.
#
# ## In torchmil
#
# <!-- instructor, 3 min: The Trainer validates in training mode in 1.0.2; see the text. -->
#
# torchmil's `ABMIL` trains on our loader as it is, and torchmil's `Trainer` trains our model.

# %%
import torchmetrics
from torchmil.models import ABMIL as TheirABMIL
from torchmil.utils import Trainer

torch.manual_seed(0)
theirs = TheirABMIL(in_shape=(in_dim,))
their_history = fit(
    theirs, make_loader(train_set, seed=0), val_loader, epochs=3, lr=LEARNING_RATE, device=device, progress=False
)
print("torchmil's model in our fit:   ", [f"{v:.3f}" for v in their_history.val_loss])

torch.manual_seed(0)
ours = ABMIL(in_dim)
trainer = Trainer(
    ours,
    torch.optim.Adam(ours.parameters(), lr=LEARNING_RATE),
    metrics_dict={"acc": torchmetrics.Accuracy(task="binary").to(device)},
    obj_metric="acc",
    device=str(device),
    disable_pbar=True,
    verbose=False,
)
trainer.train(max_epochs=3, train_dataloader=make_loader(train_set, seed=0), val_dataloader=val_loader)
from mil_tutorial.training.predict import mean_loss

trained_there = mean_loss(ours, val_loader, device=device)[0]
# The Trainer kept the last weights in the model; ours by hand after three epochs must be the same.
print(f"our model in torchmil's Trainer: {trained_there:.3f} after 3 epochs, {curves['validation'][2]:.3f} in our loop")
assert abs(trained_there - curves["validation"][2]) < 1e-3

# %% [markdown]
# ## A zoo of models
#
# <!-- instructor, 4 min: Do not let them rank models: the intervals are wider than the differences. -->
#
# torchmil has many models with one calling form, so `fit` trains them as they are. But first a question that decides how to
# batch: **does a model's answer change when its bag is padded?** It should not. We ask models with random weights, on
# four validation bags, with as much padding as there are patches:

# %%
import inspect

import pandas as pd
from torchmil import models as zoo


def call(function, batch):
    """Call a model with those entries of the batch that it takes."""
    return function(**{k: v for k, v in batch.items() if k in inspect.signature(function).parameters})


def answer(model, batch):
    return float(call(model.forward, batch))


def loss_of(model, batch):
    return float(sum(call(model.compute_loss, batch)[1].values()))


def pad(batch, n):
    """The same bag with n rows of padding."""
    padded = {k: torch.cat([v, v.new_zeros(1, n, *v.shape[2:])], 1) for k, v in batch.items() if k != "Y"}
    return {**padded, "Y": batch["Y"]}


rows = {}
for name in ["ABMIL", "TransformerABMIL", "DSMIL", "CLAM_SB", "TransMIL"]:
    torch.manual_seed(0)
    network = getattr(zoo, name)(in_shape=(in_dim,)).eval()
    change = {"logit": [], "loss": []}
    with torch.inference_mode():
        for i in range(min(4, len(val_set))):
            bag = {key: value[:, :500] if key != "Y" else value for key, value in collate_fn([val_set[i]]).items()}
            padded = pad(bag, bag["X"].shape[1])  # twice as long: half of it is padding
            change["logit"].append(abs(answer(network, bag) - answer(network, padded)))
            change["loss"].append(abs(loss_of(network, bag) - loss_of(network, padded)))
    rows[name] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "takes a mask": "mask" in inspect.signature(network.forward).parameters,
        "logit changes by": round(max(change["logit"]), 6),
        "loss changes by": round(max(change["loss"]), 6),
    }
pd.DataFrame(rows).T

# %% [markdown]
# *What to see: only a row with two zeros may be trained and scored in padded batches. TransMIL takes no mask at all; CLAM's loss
# also looks at the patches of lowest attention, and padding is among them. For such models the size of the neighbour in the batch would change a patient's result. The way out is simple: one bag at a time, so that nothing is padded.*
#
# Now torchmil's ABMIL and DSMIL, our ABMIL and our two baselines, one bag at a time, each from two seeds. They are compared on the
# **validation** slides. These chose the epoch as well, so that all numbers flatter a little; the test set stays closed until
# notebook 5.

# %%
from mil_tutorial import MaxPool, MeanPool

candidates = {
    "our ABMIL": lambda: ABMIL(in_dim),
    "mean pooling": lambda: MeanPool(in_dim),
    "max pooling": lambda: MaxPool(in_dim),
    "torchmil ABMIL": lambda: zoo.ABMIL(in_shape=(in_dim,)),
    "torchmil DSMIL": lambda: zoo.DSMIL(in_shape=(in_dim,)),
}
rows = {}
for name, make in candidates.items():
    aucs, start = [], time.perf_counter()
    for seed in [0, 1]:
        torch.manual_seed(seed)
        run = fit(
            make(),
            make_loader(train_set, 1, seed=seed),
            make_loader(val_set, batch_size=1),
            epochs=6,
            lr=LEARNING_RATE,
            device=device,
            progress=False,
        )
        aucs.append(run.val_auc[run.best_epoch])
    rows[name] = {
        "validation AUC, mean of 2 seeds": round(np.mean(aucs), 3),
        "spread": round(np.ptp(aucs), 3),
        "seconds a run": round((time.perf_counter() - start) / 2, 1),
        "MB of weights": round(sum(p.numel() for p in make().parameters()) * 4 / 1e6, 2),
    }
pd.DataFrame(rows).T

# %% [markdown]
# *What to see: so few validation slides cannot rank five models. Several rows reach the same AUC, "our ABMIL" and "torchmil ABMIL" are even
# the same model from other first weights, and two seeds hide how much luck there is. A table like this, without intervals, says which
# models can be trained at all, and no more. Notebook 5 shows what to do about it; `benchmarks/zoo.py` trains more models from more seeds.*
#
# ## What can go wrong
#
# - **The test set chooses the epoch.** Then its score is not a test any more. Notebook 5 measures how much that flatters.
# - **`best = model.state_dict()`** without a copy: it points at weights that go on changing.
# - **A NaN in one feature file** makes the loss NaN, and from then on everything. `fit` stops and names the slide:

# %%
from mil_tutorial import DataError

broken = [np.random.default_rng(i).normal(size=(5, 8)) for i in range(4)]
good = bags_from_arrays(broken, [0, 1, 0, 1], names=["slide_a", "slide_b", "slide_c", "slide_d"])
good.bags[2]["X"][0, 0] = float("nan")
try:
    fit(ABMIL(8), make_loader(good, seed=0), make_loader(good), epochs=1, device="cpu", progress=False)
except DataError as error:
    print(error)

# %% [markdown]
# ## Exercises
#
# <!-- instructor, 9 min: Exercise 3 fails for most at first: the weights of unequal batches. Let them find 1/5 and 4/5 themselves. -->
#
# **Exercise 1 (★).** Write `best_epoch_of(val_loss)`: the number of the best epoch, counted from 0.
#
# <details><summary>Hint</summary><code>np.argmin</code> gives the first place of the smallest value.</details>


# %% tags=["exercise"]
def best_epoch_of(val_loss): ...  # write your code here


# %% tags=["check"]
def check_best_epoch(function):
    for losses, right in [([0.7, 0.5, 0.6], 1), ([0.3], 0), ([0.9, 0.8, 0.7], 2)]:
        answer = function(losses)
        if answer is None:
            return "Not yet: the function returns nothing."
        if answer != right:
            return f"Not yet: for {losses} it gives {answer}, expected {right}."
    return "Right."


print(check_best_epoch(best_epoch_of))


# %% tags=["solution"]
# @title Solution of exercise 1
def best_epoch_of(val_loss):
    return int(np.argmin(val_loss))


assert check_best_epoch(best_epoch_of) == "Right.", check_best_epoch(best_epoch_of)
assert best_epoch_of(history.val_loss) == history.best_epoch
print("best epoch of the run above:", best_epoch_of(history.val_loss) + 1)

# %% [markdown]
# **Exercise 2 (★★).** Write `stop_epoch(val_loss, patience)`: after how many epochs does early stopping end the run?
#
# <details><summary>Hint</summary>Walk through the losses and remember the epoch of the best one. Stop when the current epoch is <code>patience</code> later.</details>


# %% tags=["exercise"]
def stop_epoch(val_loss, patience): ...  # write your code here


# %% tags=["check"]
def check_stop_epoch(function):
    for losses, patience, right in [
        ([3, 2, 1, 2, 2, 2], 2, 5),
        ([3, 2, 1], 2, 3),
        ([1, 2, 2, 2], 1, 2),
        ([3, 2, 2, 1, 2], 3, 5),
        ([5, 4, 4.5, 3, 3.5, 3.2, 3.1, 3.05], 3, 7),
        ([3, 2, 2.5, 2.6, 1], 2, 4),
        ([3, 2, 2, 2, 2], 2, 4),
    ]:
        answer = function(losses, patience)
        if answer is None:
            return "Not yet: the function returns nothing."
        if answer != right:
            return f"Not yet: for {losses} and patience {patience} it gives {answer}, expected {right} epochs."
    return "Right."


print(check_stop_epoch(stop_epoch))


# %% tags=["solution"]
# @title Solution of exercise 2
def stop_epoch(val_loss, patience):
    best = 0
    for epoch, loss in enumerate(val_loss):
        if loss < val_loss[best]:
            best = epoch
        elif epoch - best >= patience:
            return epoch + 1
    return len(val_loss)


assert check_stop_epoch(stop_epoch) == "Right.", check_stop_epoch(stop_epoch)
assert stop_epoch(stopped.val_loss, 5) == len(stopped.val_loss)
print("the run above stopped after", stop_epoch(stopped.val_loss, 5), "epochs")

# %% [markdown]
# **Exercise 3 (★★★).** A large batch does not fit into memory. Write `accumulated_gradient(model, batches)`: go through small batches, so that
# at the end the gradients are those of the mean loss over **all** bags together. The batches may have different sizes.
#
# <details><summary>Hint</summary>Gradients add up when you call <code>backward()</code> again without <code>zero_grad()</code> between. A batch's loss is the mean over its own bags: which weight makes it its share of all bags?</details>


# %% tags=["exercise"]
def accumulated_gradient(model, batches): ...  # write your code here


# %% tags=["check"]
def check_accumulated(function):
    torch.manual_seed(0)
    tiny = ABMIL(in_dim)
    some = [train_set[i] for i in range(5)]
    _, losses = tiny.compute_loss(**{k: collate_fn(some)[k] for k in ("Y", "X", "mask")})
    sum(losses.values()).backward()
    right = [p.grad.clone() for p in tiny.parameters()]
    for p in tiny.parameters():
        p.grad = torch.ones_like(p)  # left over from an earlier step
    function(tiny, [collate_fn(some[:1]), collate_fn(some[1:])])
    grads = [p.grad for p in tiny.parameters()]
    if any(g is None for g in grads):
        return "Not yet: a parameter has no gradient. Is backward() called?"
    if all(torch.equal(g, torch.ones_like(g)) for g in grads):
        return "Not yet: the gradients are still those from before."
    largest = max((g - r).abs().max().item() for g, r in zip(grads, right))
    if largest > 1e-5:
        return f"Not yet: a gradient is off by {largest:.3g}. Was the old gradient cleared once, at the start? Does every bag count the same, whatever its batch?"
    return "Right."


print(check_accumulated(accumulated_gradient))


# %% tags=["solution"]
# @title Solution of exercise 3
def accumulated_gradient(model, batches):
    model.zero_grad()
    total = sum(len(batch["Y"]) for batch in batches)
    for batch in batches:
        _, losses = model.compute_loss(batch["Y"], batch["X"], batch["mask"])
        (sum(losses.values()) * len(batch["Y"]) / total).backward()


assert check_accumulated(accumulated_gradient) == "Right.", check_accumulated(accumulated_gradient)
print("two small batches, one gradient")

# %% [markdown]
# ## Recap
#
# - Train in `train()`, look in `eval()` and `inference_mode()`, keep a copy of the best weights.
# - The **validation** slides choose the epoch. The test slides choose nothing.
# - Two curves show overfitting; shuffled labels show leaks.
#
# ### Quiz
#
# 1. *Why is the loss near 0.69 at the start?*
#    <details><summary>Answer</summary>A model that says "one half" for everything has the loss −ln 0.5 ≈ 0.69.</details>
# 2. *The training loss is 0.01 and the validation loss 0.9. What now?*
#    <details><summary>Answer</summary>It overfits. Stop earlier or take smaller steps, as above; more slides, if you can get them.</details>
# 3. *Why must you wait for a GPU before you read the clock?*
#    <details><summary>Answer</summary>Calls return before the work is done. Without <code>synchronize</code> you time how fast work is handed over.</details>
# 4. *Labels are shuffled, and the validation AUC is 0.8. Good news?*
#    <details><summary>Answer</summary>No. There is nothing to learn from shuffled labels, so 0.5 is expected, give or take chance. 0.8 means a leak, or very few bags.</details>
# 5. *You train twice with the same seed and get different weights. Name two reasons.*
#    <details><summary>Answer</summary>The order of the bags came from a generator that was not seeded, or a GPU adds numbers in another order. Also: something else drew from torch's generator in between.</details>
#
# ### References
#
# - I. Loshchilov, F. Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019, [arXiv:1711.05101](https://arxiv.org/abs/1711.05101). AdamW.
# - C. Zhang et al., *Understanding deep learning requires rethinking generalization*, ICLR 2017, [arXiv:1611.03530](https://arxiv.org/abs/1611.03530). Networks learn shuffled labels by heart.
# - B. Li, Y. Li, K. W. Eliceiri, *Dual-stream Multiple Instance Learning Network for Whole Slide Image Classification*, CVPR 2021, [arXiv:2011.08939](https://arxiv.org/abs/2011.08939). DSMIL.
#
# **Next:** notebook 5 asks how good the model really is.

# %% tags=["result"]
auc = history.val_auc[history.best_epoch]
print(
    f"Key result: validation loss {history.val_loss[history.best_epoch]:.3f}, AUC {auc:.3f} at epoch {history.best_epoch + 1}, on {device.type}"
)
