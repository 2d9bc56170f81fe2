# %% [markdown]
# # 4 · Training, on a GPU if there is one
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mil-tutorial/mil-tutorial/blob/main/notebooks/04-training-on-gpu.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/mil-tutorial/mil-tutorial/main?labpath=notebooks/04-training-on-gpu.ipynb)
#
# **Course: Multiple Instance Learning for whole-slide images** · notebook 4 of 6
#
# | | |
# |---|---|
# | **You will be able to** | write a training loop that is right · keep the best epoch · read learning curves · see and stop overfitting · find a tumour with your own model |
# | **You need** | notebook 3 (necessary) · notebook 2 (helpful) |
# | **Time** | about 45 minutes to read and do |
# | **Measured** | runs in 24 s and takes 0.7 GB of memory, on two CPU cores |
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
# ## What training looks like when it goes well
#
# <!-- instructor, 4 min: Hide the curve and let them draw one. Collect three drawings. -->
#
# A model that learns well gets better on the slides that it trains on *and* on slides that it does not train on. Two curves show
# it. We will draw them at the end of the next section. First come the data and the device. The code is the same on a CPU and on a
# GPU.

# %%
import copy
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.model_selection import train_test_split

from mil_tutorial import ABMIL, bags_in_memory, make_loader, open_data, pick_device, split_bags

device = pick_device()
print("training on", torch.cuda.get_device_name() if device.type == "cuda" else device)

# %%
data = open_data()
dataset = bags_in_memory(data.bags("train"), patches=data.budget.patches, progress=False)  # as notebook 2 built it
labels = dataset.get_bag_labels()
train_set, val_set = split_bags(dataset, seed=1234)  # a fifth for validation, by patient, stratified
train_loader, val_loader = make_loader(train_set, seed=0), make_loader(val_set)
in_dim = dataset[0]["X"].shape[1]
print(
    f"{len(train_set)} training and {len(val_set)} validation slides, {data.encoder}, {in_dim} features; {data.budget}"
)

# %% [markdown]
# Notebook 2 built a loader by hand. `make_loader` is that loader: four bags at a time. With a seed the order is random, and the
# seed decides it. Without a seed the bags come in their own order.

# %% [markdown]
# ## The loop by hand
#
# <!-- instructor, 8 min: Common mistakes: no model.eval(), no zero_grad(), the best weights kept by reference (so they go on changing). Make one of them on purpose. -->
#
# One **epoch** shows every training slide once. For each batch: forward, loss, gradients, one step of Adam.


# %%
def train_epoch(model, optimizer):
    """One step for each batch; the mean loss of the training slides."""
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
    return total / len(train_set)


# %% [markdown]
# Then we look at the validation slides. Two things are easy to forget there, and torchmil's `Trainer` (version 1.0.2), which the
# original uses, does forget them:
#
# 1. `model.eval()`: layers such as dropout behave differently when we only look.
# 2. `torch.inference_mode()`: no gradients are stored, which saves time and memory.


# %%
def validation_loss(model):
    """The mean loss of the validation slides. Nothing is learnt here."""
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for batch in val_loader:
            batch = batch.to(device)
            _, losses = model.compute_loss(batch["Y"], batch["X"], batch["mask"])
            total += losses["BCEWithLogitsLoss"].item() * len(batch["Y"])
    return total / len(val_set)


# %% [markdown]
# Now the loop. Keep a **copy** of the best weights: the best epoch need not be the last one.

# %%
EPOCHS = 20
LEARNING_RATE = 5e-4

torch.manual_seed(0)
model = ABMIL(in_dim).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
curves, best_loss, start = {"train": [], "validation": []}, float("inf"), time.perf_counter()
for epoch in range(EPOCHS):
    curves["train"].append(train_epoch(model, optimizer))
    curves["validation"].append(validation_loss(model))
    if curves["validation"][-1] < best_loss:
        best_loss, best_epoch = curves["validation"][-1], epoch
        best_weights = copy.deepcopy(model.state_dict())  # a copy: the weights go on changing

model.load_state_dict(best_weights)
rate = EPOCHS * len(train_set) / (time.perf_counter() - start)
print(f"{EPOCHS} epochs, {rate:.0f} bags a second; best epoch {best_epoch + 1}, validation loss {best_loss:.3f}")


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


title = "Training loss goes on falling, validation loss levels off"
draw_curves(curves["train"], curves["validation"], best_epoch, title)
plt.show()

# %% [markdown]
# *What to see: a coin has the loss 0.69, and the curves start near it. The blue curve goes on falling. Where the orange one
# levels off, the model begins to learn its slides by heart. The dashed line marks the epoch whose weights are kept. On the
# synthetic slides it is the last one: the orange curve is nearly flat, but still falls a little.*
#
# ## The finished form
#
# <!-- instructor, 4 min: Read the signature aloud; each argument answers a question that came up by hand. -->
#
# `fit` is this loop with a progress bar, early stopping (see below) and clear errors. With the same first weights and the same
# order of bags, it gives the same losses.

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
pick = {"train_size": size, "random_state": 0, "stratify": train_set.get_bag_labels()}
few = train_set.subset(train_test_split(range(len(train_set)), **pick)[0])


def train_on_few(**settings):
    """Train a new model on the few slides; its history."""
    torch.manual_seed(0)
    return fit(ABMIL(in_dim), make_loader(few, seed=0), val_loader, device=device, progress=False, **settings)


# %%
long = 2 * EPOCHS
steps = {f"{size} slides, learning rate 2e-3": 2e-3, f"{size} slides, smaller steps: 2e-4": 2e-4}
runs = {title: train_on_few(epochs=long, lr=lr, weight_decay=0.0) for title, lr in steps.items()}

fig, axes = plt.subplots(1, 2, figsize=(12, 3), sharey=True)
for ax, (title, run) in zip(axes, runs.items()):
    draw_curves(run.train_loss, run.val_loss, run.best_epoch, title, ax)
plt.show()
for title, run in runs.items():
    print(f"{title}: best validation loss {min(run.val_loss):.3f}, last {run.val_loss[-1]:.3f}")

# %% [markdown]
# *What to see: on the left the training loss goes to zero while the validation loss rises after its best epoch: the gap between
# the curves is what was learnt by heart. On the right, with smaller steps, the gap opens later, and the validation loss hardly
# rises in these 40 epochs.*
#
# **Early stopping.** `patience` ends a run when the validation loss has not improved for that many epochs:

# %%
stopped = train_on_few(epochs=long, lr=2e-3, patience=5)
print(f"stopped after {len(stopped.val_loss)} of {long} epochs, with the weights of epoch {stopped.best_epoch + 1}")

# %% [markdown]
# ### Exercise 1 (★): beat that number
#
# The cell with the two figures printed the best validation loss of both runs. **Change** the learning rate, the epochs, the
# weight decay or `accumulate` (how many batches make one step), and **beat both**: reach a lower validation loss on the same 16
# slides, in at most 40 epochs.
#
# <!-- instructor, 5 min: Collect the winning settings on the board. Then ask: whose number would you report, and on which slides? -->
#
# <details><summary>Hint</summary>Look at both curves: one falls fast and then rises, one still falls at its end. What lies between the two learning rates? `fit` also takes <code>schedule="cosine"</code>.</details>

# %% tags=["exercise"]
my_settings = None  # write a dictionary here, such as dict(epochs=..., lr=...)


# %% tags=["check"]
from mil_tutorial.exercises import notebook_4 as check

check.my_settings(my_settings, train_on_few, runs, long)

# %% tags=["solution"]
# @title Solution of exercise 1
my_settings = dict(epochs=long, lr=1e-3)
assert check.my_settings.accepts(my_settings, train_on_few, runs, long) or not data.synthetic  # others want others
print(f"validation loss {min(train_on_few(**my_settings).val_loss):.3f}")

# %% [markdown]
# If twenty people try twenty settings each, some will find a better number by luck alone: it was **chosen** on these validation
# slides. That is why the test slides are still closed.

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


def train_on_shuffled(seed):
    """Train on random labels; the history."""
    order = np.random.default_rng(seed).permutation(len(labels))
    wrong = bags_from_arrays([bag["X"].numpy() for bag in dataset], [labels[i] for i in order])
    part, rest = split_bags(wrong, seed=seed, val_fraction=0.3)
    torch.manual_seed(seed)
    loaders = make_loader(part, seed=seed), make_loader(rest)
    return fit(ABMIL(in_dim), *loaders, epochs=data.budget.epochs(8), lr=LEARNING_RATE, device=device, progress=False)


nothing = [train_on_shuffled(seed) for seed in data.budget.seeds(5)]
aucs = [run.val_auc[-1] for run in nothing]
print("validation AUC with shuffled labels:", [f"{auc:.2f}" for auc in aucs], f"mean {np.mean(aucs):.2f}")
print(f"training loss of the last run: {nothing[-1].train_loss[0]:.2f} -> {nothing[-1].train_loss[-1]:.2f}")

# %% [markdown]
# Read the values: they lie around 0.5, some above and some below. With 27 validation slides, as here on the synthetic data,
# anything from 0.3 to 0.7 is chance. The training loss falls all the same: that is learning by heart.
#
# ## CPU and GPU
#
# <!-- instructor, 3 min: Without a GPU, read and go on. -->
#
# A GPU pays off when bags are large. Here is one training step on a made-up bag of the size of a real slide. A GPU is still
# working when the call returns. So we wait for it before we read the clock; otherwise we would time nothing:


# %%
def seconds_per_step(device, patches=5000, features=768, steps=5):
    torch.manual_seed(0)
    step_model = ABMIL(features).to(device)
    step_optimizer = torch.optim.Adam(step_model.parameters())
    X, Y = torch.randn(1, patches, features).to(device), torch.ones(1).to(device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for i in range(steps + 1):
        if i == 1:  # the first step warms up
            wait()
            start = time.perf_counter()
        step_optimizer.zero_grad()
        sum(step_model.compute_loss(Y, X)[1].values()).backward()
        step_optimizer.step()
    wait()
    return (time.perf_counter() - start) / steps


# %%
for kind in [torch.device("cpu")] + ([device] if device.type != "cpu" else []):
    print(f"{kind.type}: {seconds_per_step(kind) * 1000:.1f} ms for a bag of 5000 patches")
if device.type == "cpu":
    print("no GPU here; on Colab choose Runtime > Change runtime type, and run this notebook again")

# %% [markdown]
# ## In torchmil
#
# <!-- instructor, 3 min: The Trainer validates in training mode in 1.0.2; see the text. -->
#
# torchmil's `ABMIL` trains on our loader as it is, and torchmil's `Trainer` trains our model.

# %%
from torchmil.models import ABMIL as TheirABMIL

torch.manual_seed(0)
theirs = fit(
    TheirABMIL(in_shape=(in_dim,)), make_loader(train_set, seed=0), val_loader,
    epochs=3, lr=LEARNING_RATE, device=device, progress=False,
)  # fmt: skip
print("torchmil's model in our fit:", [f"{v:.3f}" for v in theirs.val_loss])

# %%
import torchmetrics
from torchmil.utils import Trainer

torch.manual_seed(0)
ours = ABMIL(in_dim)
optimizer = torch.optim.Adam(ours.parameters(), lr=LEARNING_RATE)
accuracy = {"acc": torchmetrics.Accuracy(task="binary").to(device)}
settings = {"device": str(device), "disable_pbar": True, "verbose": False}
trainer = Trainer(ours, optimizer, metrics_dict=accuracy, obj_metric="acc", **settings)
trainer.train(max_epochs=3, train_dataloader=make_loader(train_set, seed=0), val_dataloader=val_loader)

# The Trainer kept the last weights in the model; ours by hand after three epochs must be the same.
trained_there, by_hand = validation_loss(ours), curves["validation"][2]
print(f"our model in torchmil's Trainer: {trained_there:.3f} after 3 epochs, {by_hand:.3f} in our loop")
assert abs(trained_there - by_hand) < 1e-3

# %% [markdown]
# The [appendix](appendix-training.ipynb) goes on from here: other models, padding, rare classes, a run that stops and is taken up
# again, and numbers of 16 bits.
#
# ## Your model finds a tumour
#
# <!-- instructor, 4 min: The reward. Let them compare with their neighbour: same data, same seed, same map. -->
#
# The model was told one thing about each slide: tumour or no tumour. Nobody told it where. Take a validation slide, which it was
# not trained on, and ask where it looked. On the synthetic slides it is the slide of notebook 1.

# %%
from mil_tutorial import attention_times_n, predict

validation = predict(model, val_loader)
names = validation.names
wsi_name = data.small_example if data.small_example in names else names[int(validation.prob.argmax())]
whole = data.bags(
    "train", keys=["X", "Y", "y_inst"]
)  # y_inst says where the tumour is: to look it up, never to learn from
one = whole.subset([whole.get_bag_names().index(wsi_name)])
asked = predict(model, make_loader(one))
looked = attention_times_n(asked.attention[0])  # 1 is a fair share of the attention
y_inst = one[0]["y_inst"].numpy()
print(f"{wsi_name}: probability of tumour {asked.prob[0]:.2f}")
print(f"{(y_inst == 1).sum()} of {len(y_inst)} patches hold tumour; the model looked most at patch {looked.argmax()},")
print("which is tumour" if y_inst[looked.argmax()] == 1 else "which is not tumour")

# %%
from mil_tutorial import draw_heatmap, open_slide, read_canvas, show_images

patches, px = whole.read_patches(wsi_name), data.budget.px
slide = open_slide(data.slide_path(wsi_name))
canvas, rows, columns = read_canvas(slide, patches.coords, patches.geometry.patch_size_level0, px)
colour = {"alpha": 0.65, "cmap": "Oranges"}
where = draw_heatmap(canvas, (y_inst == 1) * 0.75, rows, columns, px, **colour)
map_of_model = draw_heatmap(canvas, looked / looked.max(), rows, columns, px, **colour)
titles = [f"{wsi_name}", "where the tumour is", "where your model looked"]
show_images([canvas, where, map_of_model], titles, width=14)
plt.show()

# %% [markdown]
# *What to see: on the right, the darker a patch, the more the model looked at it. Compare with the middle. No label of a patch was
# used in training.*
#
# Do not trust the picture yet. One slide that came out well proves little. Notebook 5 asks how good the model is on all test
# slides, and notebook 6 asks whether such a map shows what the model used.

# %% [markdown]
# ## What can go wrong
#
# - **The test set chooses the epoch.** Then its score is no longer a test. Notebook 5 measures how much too good it looks.
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
# <!-- instructor, 6 min: Exercise 3 fails for most at first: the weights of unequal batches. Let them find 1/5 and 4/5 themselves. -->
#
# **Exercise 2 (★★).** Write `stop_epoch(val_loss, patience)`: after how many epochs does early stopping end the run?
#
# <details><summary>Hint</summary>Walk through the losses and remember the epoch of the best one. Stop when the current epoch is <code>patience</code> later.</details>


# %% tags=["exercise"]
def stop_epoch(val_loss, patience):
    """How many epochs are trained. stop_epoch([3, 2, 1], patience=2) is 3: it never had to stop."""
    # Write your code here.


# %% tags=["check"]
from mil_tutorial.exercises import notebook_4 as check

check.stop_epoch(stop_epoch)


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


assert check.stop_epoch.accepts(stop_epoch)
assert stop_epoch(stopped.val_loss, 5) == len(stopped.val_loss)
print("the run above stopped after", stop_epoch(stopped.val_loss, 5), "epochs")

# %% [markdown]
# **Exercise 3 (★★★).** A large batch does not fit into memory. Write `accumulated_gradient(model, batches)`. It goes through
# small batches one by one. At the end, the gradients of the model must be those of the mean loss over **all** bags together. The
# batches may have different sizes.
#
# <details><summary>Hint</summary>Gradients add up when you call <code>backward()</code> again without <code>zero_grad()</code> between. A batch's loss is the mean over its own bags: which weight makes it its share of all bags?</details>


# %% tags=["exercise"]
def accumulated_gradient(model, batches):
    """Leaves the gradients in the model: p.grad of each parameter p. It returns nothing."""
    # Write your code here.


# %% tags=["check"]
from mil_tutorial.exercises import notebook_4 as check

check.accumulated_gradient(accumulated_gradient)


# %% tags=["solution"]
# @title Solution of exercise 3
def accumulated_gradient(model, batches):
    model.zero_grad()
    total = sum(len(batch["Y"]) for batch in batches)
    for batch in batches:
        _, losses = model.compute_loss(batch["Y"], batch["X"], batch["mask"])
        (sum(losses.values()) * len(batch["Y"]) / total).backward()


assert check.accumulated_gradient.accepts(accumulated_gradient)
print("two small batches, one gradient")

# %% [markdown]
# ## Recap
#
# - Train in `train()`, look in `eval()` and `inference_mode()`, keep a copy of the best weights.
# - The **validation** slides choose the epoch. The test slides choose nothing.
# - Two curves show overfitting; shuffled labels show leaks.
#
# | DO | DON'T |
# |---|---|
# | keep a **copy** of the weights of the best epoch | keep the last epoch because it came last |
# | choose epoch, learning rate and model on **validation** slides | look at the test slides before everything is chosen |
# | draw both curves, every time | report one training loss |
# | shuffle the labels once in each project | believe a good score that you have not tried to break |
# | say device, seed and number of epochs | time a GPU without `synchronize` |
#
# ### Quiz
#
# {quiz}

# %% tags=["quiz"]
from mil_tutorial.exercises.quizzes import answer_quiz

answer_quiz(4, "")  # your five letters between the quotes: they are remembered on this computer, and nowhere else

# %% [markdown]
# ### References
#
# - I. Loshchilov, F. Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
#   [arXiv:1711.05101](https://arxiv.org/abs/1711.05101). AdamW.
# - C. Zhang et al., *Understanding deep learning requires rethinking generalization*, ICLR 2017,
#   [arXiv:1611.03530](https://arxiv.org/abs/1611.03530). Networks learn shuffled labels by heart.
#
# **Next:** notebook 5 asks how good the model really is.

# %% tags=["result"]
auc = history.val_auc[history.best_epoch]
print(
    f"Key result: validation loss {history.val_loss[history.best_epoch]:.3f}, AUC {auc:.3f} at epoch {history.best_epoch + 1}, on {device.type}"
)
