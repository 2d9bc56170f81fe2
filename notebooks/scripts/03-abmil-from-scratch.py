# %% [markdown]
# # 3 · Attention-based MIL from scratch
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mil-tutorial/mil-tutorial/blob/main/notebooks/03-abmil-from-scratch.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/mil-tutorial/mil-tutorial/main?labpath=notebooks/03-abmil-from-scratch.ipynb)
#
# **Course: Multiple Instance Learning for whole-slide images** · notebook 3 of 6
#
# | | |
# |---|---|
# | **You will be able to** | build ABMIL line by line · say what attention is · show that order, padding and neighbours in a batch change nothing · test which models keep `Y = max(y)` |
# | **You need** | notebook 2, and `torch.nn` (necessary) · gradients and softmax (helpful) |
# | **Time** | about 55 minutes to read and do |
# | **Measured** | runs in 4 s and takes 0.5 GB of memory, on two CPU cores |
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
# ## The idea in one picture
#
# <!-- instructor, 5 min: Cover the third picture and ask for weights by hand. Then show it. -->
#
# A bag of patches must become **one** vector, whatever its size. One way is the mean: every patch counts a little, and one tumour
# patch among a thousand counts very little. Another way is the maximum: one patch decides, and all others are silent.
# **Attention** is between the two: a weighted mean, and the model learns the weights.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

values = np.array([0.1, 0.2, 0.1, 0.9, 0.15, 0.2])
weights = {
    "mean": np.full(6, 1 / 6),
    "maximum": np.eye(6)[3],
    "attention": np.array([0.05, 0.06, 0.05, 0.7, 0.07, 0.07]),
}
fig, axes = plt.subplots(1, 3, figsize=(11, 2.6), sharey=True)
for ax, (title, weight) in zip(axes, weights.items()):
    ax.bar(range(6), weight, color=["#D55E00" if i == 3 else "#0072B2" for i in range(6)])
    ax.set(title=f"{title}: {weight @ values:.2f}", xlabel="patch", ylim=(0, 1))
axes[0].set_ylabel("weight of the patch")
plt.show()

# %% [markdown]
# *What to see: six patches, one of them (orange) with a high value. The height is each patch's weight. The number above is
# what the bag becomes. The weights of the third picture are an example; a model learns its own.*

# %% [markdown]
# ## Mean and maximum are the two ends of one knob
#
# <!-- instructor, 5 min: Let them vote first: mean or max? Both are right, for different diseases. -->
#
# Each patch has a score $f_i$, and the bag needs one. **Log-sum-exp** has a knob $r$ for that:
#
# $$\operatorname{LSE}_r(f) = \frac{1}{r} \log\Big(\frac{1}{n} \sum_i \exp(r f_i)\Big)$$
#
# With $r$ near 0 it is the mean. With a large $r$ it is the maximum. Try it on two made-up diseases. In the first, **one** patch of
# a sick bag stands out. In the second, **every** patch of a sick bag is a little changed.
#
# > **Predict:** where should the knob stand for each?


# %%
def lse(f, r):
    """Log-sum-exp of the scores (bags, patches) with the knob at r."""
    return np.log(np.mean(np.exp(r * f), axis=1)) / r


def auc(y, score):
    """The share of pairs (sick, healthy) in which the sick bag has the higher score; 0.5 is a coin."""
    return np.mean(np.sign(score[y == 1][:, None] - score[y == 0]) / 2 + 0.5)


def make_scores(disease, seed):
    """100 bags of 200 patch scores; every second bag is sick."""
    y, f = np.arange(100) % 2, np.random.default_rng(seed).normal(size=(100, 200))
    if disease == "one patch stands out":
        f[y == 1, 0] += 4
    else:
        f[y == 1] += 0.25
    return y, f


# %%
knob, means = np.geomspace(0.05, 20, 12), {}
fig, ax = plt.subplots(figsize=(7, 3))
for disease, color in [("one patch stands out", "#D55E00"), ("all patches a little changed", "#0072B2")]:
    made = [make_scores(disease, seed) for seed in range(20)]
    curves = np.array([[auc(y, lse(f, r)) for r in knob] for y, f in made])
    means[disease] = curves.mean(0)
    ax.plot(knob, means[disease], "o-", color=color, label=disease)
    ax.fill_between(knob, *np.quantile(curves, [0.025, 0.975], axis=0), color=color, alpha=0.2)
    print(f"{disease}: AUC {curves[:, 0].mean():.2f} near the mean, {curves[:, -1].mean():.2f} near the maximum")
ax.set(title="No end of the knob is always right", xscale="log", xlabel="knob r", ylabel="AUC", ylim=(0.4, 1.02))
ax.legend(loc="lower center")
plt.show()

# %% [markdown]
# *What to see: a line is the mean over 20 made-up data sets, the band holds 95 % of them. The orange disease wants the
# maximum (right), the blue one wants the mean (left). A small metastasis is like the orange one.*
#
# **Move the knob.** On the left is one sick bag of the orange disease: how much does each of its 200 patches count?

# %%
from mil_tutorial import show_slider

scores, pictures = make_scores("one patch stands out", seed=0)[1][1], []
for r in knob:
    weight = np.exp(r * scores) / np.exp(r * scores).sum()  # what moves LSE: its derivative by each score
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 2.6))
    left.bar(range(20), np.sort(weight)[::-1][:20], color="#D55E00")
    left.set(
        title="the 20 patches that count most", ylabel="weight (logarithmic)", yscale="log", ylim=(1e-3, 1.3), xticks=[]
    )
    for (disease, value), color in zip(means.items(), ["#D55E00", "#0072B2"]):
        right.plot(knob, value, color=color, label=disease)
    right.axvline(r, color="black", ls="--")
    right.set(xscale="log", xlabel="knob r", ylabel="AUC", ylim=(0.4, 1.02))
    right.legend(loc="lower center", fontsize=9)
    pictures.append(fig)
show_slider(pictures, [f"{r:.2f}" for r in knob], name="knob r", alt="Weights of the patches, and AUC by knob")

# %% [markdown]
# *What to see: at the left end every patch counts 1/200 = 0.005, and the one that stands out is lost. At the right end it counts
# alone. (Each line of the left axis is ten times the one below.)*
#
# So take the mean seriously. With features of a strong encoder, a mean and a small network were reported to beat popular MIL
# models on a large task with many kinds of cancer ([Li et al., 2025](https://arxiv.org/abs/2502.20823)). There is a theory of
# this knob, too, which says when each end wins ([Jafarinia et al., NeurIPS
# 2025](https://papers.nips.cc/paper_files/paper/2025/hash/8bacb23a4f6b6f52dd5c81c15b4e4ac5-Abstract-Conference.html)). Attention
# need not choose an end: its weights can be even, like those of the mean, or sharp, like those of the maximum.

# %% [markdown]
# ### Try it (★): beat both ends
#
# You do not know which of the two diseases will come. **Set the knob** so that the AUC is at least **0.85 for both**. Each end of
# the knob fails for one of them.
#
# <!-- instructor, 3 min: A value between 1 and 2 does it. Ask why nobody told the model. Attention learns its own knob. -->
#
# <details><summary>Hint</summary>In the figure, at which place are both lines high?</details>

# %% tags=["exercise"]
my_knob = None  # write a number here


# %% tags=["check"]
from mil_tutorial.exercises import notebook_3 as check

check.my_knob(my_knob, lse, make_scores, auc)

# %% tags=["solution"]
# @title Solution
my_knob = 1.3
assert check.my_knob.accepts(my_knob, lse, make_scores, auc)
print("between the ends:", my_knob)

# %% [markdown]
# ## The equations
#
# <!-- instructor, 5 min: Write shapes under every symbol. Nobody gets lost who knows the shapes. -->
#
# For patches $\mathbf{x}_1, \dots, \mathbf{x}_n$ (Ilse, Tomczak and Welling, 2018):
#
# | | equation | in words |
# |---|---|---|
# | 1 | $\mathbf{h}_i = \operatorname{NeuralNet}(\mathbf{x}_i)$ | transform every patch; may be left out |
# | 2 | $f_i = \mathbf{w}^\top \tanh(\mathbf{V}\mathbf{h}_i)$ | one number: how much to look at patch $i$ |
# | 3 | $s_i = \exp(f_i) / \sum_j \exp(f_j)$ | the softmax: positive weights with sum 1 |
# | 4 | $\mathbf{z} = \sum_i s_i \mathbf{h}_i$ | the weighted mean |
# | 5 | $\hat{Y} = \operatorname{Classifier}(\mathbf{z})$ | a linear layer: the bag's logit |
#
# The original tutorial leaves equation 1 out. We do so too at first.
#
# ## By hand, for one slide
#
# <!-- instructor, 6 min: Common mistake: softmax over the wrong dimension. It sums to 1 over features then, and nothing complains. -->

# %%
from mil_tutorial import open_data

data = open_data()
dataset = data.bags("train")  # what notebook 2 built by hand: X and Y of each training slide
X = dataset[0]["X"]  # (n, D)
n, D = X.shape
print(f"{dataset.get_bag_names()[0]}: {n} patches with {D} features")

# %%
torch.manual_seed(0)
att_dim = 128
V = torch.randn(att_dim, D) / D**0.5
w = torch.randn(att_dim) / att_dim**0.5

h = X  # equation 1 left out        (n, D)
f = torch.tanh(h @ V.T) @ w  # equation 2   (n,)
s = torch.exp(f) / torch.exp(f).sum()  # equation 3   (n,)
z = (s[:, None] * h).sum(0)  # equation 4   (D,)
print("f", tuple(f.shape), " s", tuple(s.shape), f"with sum {s.sum():.6f}", " z", tuple(z.shape))

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 2.6))
shown = range(min(n, 500))  # of a large slide the first 500 patches
axes[0].bar(shown, f[: len(shown)])
axes[0].set(title="Raw attention f: any number", xlabel="patch")
axes[1].bar(shown, s[: len(shown)])
axes[1].axhline(1 / n, color="black", lw=1, ls="--")
axes[1].set(title="After the softmax: positive, sum 1", xlabel="patch")
plt.show()

# %% [markdown]
# *What to see: the dashed line is 1/n, a patch's fair share. Before training the weights differ, but no patch stands far above
# the others.*
#
# ## A batch of bags: where the mask comes in
#
# <!-- instructor, 6 min: Let someone forget the mask on purpose, and look at the number that changes. -->
#
# In a padded batch some rows are not patches. They must get weight 0. If $f_i = -\infty$ then $\exp(f_i) = 0$. So we write
# $-\infty$ there before the softmax. This is the whole model:


# %% tags=["same-as-package"]
class ABMIL(nn.Module):
    """Attention-based MIL: a weighted mean of the patches, and the model learns the weights."""

    def __init__(self, in_dim, att_dim=128):
        super().__init__()
        self.att_V = nn.Linear(in_dim, att_dim)
        self.att_w = nn.Linear(att_dim, 1, bias=False)
        self.classifier = nn.Linear(in_dim, 1)

    def forward(self, X, mask=None, return_att=False):
        f = self.att_w(torch.tanh(self.att_V(X))).squeeze(-1)  # (B, N)
        if mask is None:
            mask = torch.ones_like(f, dtype=torch.bool)
        s = torch.softmax(f.masked_fill(~mask, -torch.inf), dim=1)  # (B, N)
        z = (s.unsqueeze(-1) * X).sum(1)  # (B, D)
        logits = self.classifier(z).squeeze(-1)  # (B,)
        return (logits, f) if return_att else logits

    def compute_loss(self, Y, X, mask=None):
        logits = self(X, mask)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, Y)
        return logits, {"BCEWithLogitsLoss": loss}


torch.manual_seed(0)
model = ABMIL(D)
print(sum(p.numel() for p in model.parameters()), "parameters")

# %% [markdown]
# `compute_loss` gives the binary cross-entropy, the usual loss for a probability: it is small when the model is right, and large
# when it is sure and wrong. torchmil's `Trainer` calls a method of this name, so it can train our class as it is.
#
# ## Checks that every MIL model should pass
#
# <!-- instructor, 5 min: The most useful section of the course for researchers. Ask which of the checks their own model passes. -->
#
# > **Predict:** which of these change the logit of a bag: (a) another order of its patches, (b) ten rows of padding, (c) other
# > bags in the batch?

# %%
from mil_tutorial import collate_fn

model.eval()
bags = [dataset[i] for i in range(4)]
batch = collate_fn(bags)
with torch.no_grad():
    alone = torch.cat([model(bag["X"][None]) for bag in bags])
    together, f = model(batch["X"], batch["mask"], return_att=True)
    shuffled = model(bags[0]["X"][torch.randperm(len(bags[0]["X"]))][None])
    s = torch.softmax(f.masked_fill(~batch["mask"], -torch.inf), 1)

print("(a) order:  ", f"{(shuffled - alone[0]).abs().item():.1e}")
print("(b, c) batch:", f"{(together - alone).abs().max():.1e}")
print("attention of each bag sums to", s.sum(1).tolist(), "and to", s[~batch["mask"]].sum().item(), "over padding")
assert torch.allclose(shuffled, alone[:1], atol=1e-5) and torch.allclose(together, alone, atol=1e-5)

# %% [markdown]
# None of them does. A bag is a set, and this model treats it as one. And without the mask? Put a bag beside one that is ten times
# as large, and it is filled up with rows of zeros. Their attention is $f = \mathbf{w}^\top \tanh(\mathbf{b})$, the same number
# for each, and together they weigh a lot:

# %%
real, padding = len(bags[0]["X"]), 9 * len(bags[0]["X"])
longer = torch.cat([bags[0]["X"], torch.zeros(padding, D)])[None]  # the same bag, filled up
mask = (torch.arange(real + padding) < real)[None]
with torch.no_grad():
    (with_mask, f), without_mask = model(longer, mask, return_att=True), model(longer)
    weight = torch.softmax(f, 1)[0, real:].sum()
print(f"logit {alone[0]:+.4f} alone, {with_mask.item():+.4f} padded with a mask, {without_mask.item():+.4f} without")
print(f"without the mask, padding has {weight:.0%} of the attention")

# %% [markdown]
# ## One step of learning
#
# <!-- instructor, 3 min: A parameter that does not move is the most common silent mistake. -->
#
# Does every parameter move? If one has no gradient, no error message tells you.

# %%
model.train()
before = {name: p.detach().clone() for name, p in model.named_parameters()}
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
labels = torch.stack([bag["Y"] for bag in bags])
logits, losses = model.compute_loss(labels, batch["X"], batch["mask"])
losses["BCEWithLogitsLoss"].backward()
optimizer.step()
for name, p in model.named_parameters():
    print(f"{name:18s} {tuple(p.shape)!s:12s} moved by up to {(p - before[name]).abs().max():.1e}")
    assert not torch.equal(p, before[name]), name

# %% [markdown]
# ## Gated attention
#
# <!-- instructor, 2 min: Skip in the three-hour plan. -->
#
# $\tanh$ is nearly a straight line around 0. The paper adds a gate, a second layer with a sigmoid, that multiplies it:
#
# $$f_i = \mathbf{w}^\top \big(\tanh(\mathbf{V}\mathbf{h}_i) \odot \operatorname{sigmoid}(\mathbf{U}\mathbf{h}_i)\big)$$

# %%
t = torch.linspace(-3, 3, 100)
fig, ax = plt.subplots(figsize=(6, 2.6))
ax.plot(t, torch.tanh(t), label="tanh")
ax.plot(t, torch.tanh(t) * torch.sigmoid(t), label="tanh · sigmoid")
ax.set(title="The gate shuts where its input is negative", xlabel="input")
ax.legend()
plt.show()

# %% [markdown]
# *What to see: with the gate (orange), negative inputs count much less. For this picture both layers see the same input.*
#
# ## The finished form
#
# `mil_tutorial.ABMIL` is the class above, with `gated`, with equation 1 as `feat_ext`, and with a second way in:
# `forward_packed` takes packed bags, with no padding at all.

# %%
from mil_tutorial import ABMIL as PackageABMIL
from mil_tutorial import collate_packed

finished = PackageABMIL(D)
finished.load_state_dict(model.state_dict())  # the same names, so the weights fit
packed = collate_packed(bags)
with torch.no_grad():
    assert torch.allclose(finished(batch["X"], batch["mask"]), model(batch["X"], batch["mask"]), atol=1e-5)
    assert torch.allclose(
        finished.forward_packed(packed["X"], packed["offsets"]), model(batch["X"], batch["mask"]), atol=1e-5
    )
print("notebook, package, padded and packed agree")

# %% [markdown]
# The baselines of notebook 5 are there too: `MeanPool` and `MaxPool`.
#
# ## In torchmil
#
# <!-- instructor, 2 min: Equal weights, equal answers. -->
#
# The same model with the same weights must give the same numbers.

# %%
from torchmil.models import ABMIL as TheirABMIL

theirs = TheirABMIL(in_shape=(D,), att_dim=128)
mine = finished.state_dict()
theirs.load_state_dict(
    {
        "pool.fc1.module.weight": mine["att_V.weight"],
        "pool.fc1.module.bias": mine["att_V.bias"],
        "pool.fc2.weight": mine["att_w.weight"],
        "classifier.module.weight": mine["classifier.weight"],
        "classifier.module.bias": mine["classifier.bias"],
    }
)
with torch.no_grad():
    a, att_a = finished(batch["X"], batch["mask"], return_att=True)
    b, att_b = theirs(batch["X"], batch["mask"], return_att=True)
assert torch.allclose(a, b, atol=1e-5) and torch.allclose(att_a, att_b, atol=1e-5)
print("logits and attention equal torchmil's")

# %% [markdown]
# ## Does it keep the MIL assumption?
#
# <!-- instructor, 7 min: The sentence to remember: nobody told ABMIL that Y is the maximum. Ask what a model could learn instead. -->
#
# Notebook 2 said $Y = \max(y_1, \dots, y_n)$: a slide is sick **because** one patch is sick. A healthy patch should change
# nothing. But nobody told ABMIL that. It may just as well learn "here is a patch that only healthy slides have".
#
# Raff and Holt ([NeurIPS 2023](https://arxiv.org/abs/2310.17867)) test a model as programmers test a program: with small made-up
# bags on which only a model that keeps the rule can do well. None of the five well-known deep models that they tried keeps the
# rule. Here are three sets in their spirit. A **tumour** patch stands out in one direction.
#
# | set | who is sick | a shortcut in training | what changes afterwards |
# |---|---|---|---|
# | one concept | a bag with a tumour patch | healthy bags also hold one **bystander**, such as a harmless kind of tissue | the bystander is in the sick bags |
# | several | a bag with a tumour of kind A **or** B | the same | the same |
# | false frequency | a bag with a tumour patch | healthy bags hold one faint look-alike | healthy bags hold five look-alikes |
#
# The label is the maximum in all of them, before and after. Only the shortcut stops working.


# %%
def make_bags(kind, n, changed, seed):
    """n bags of 12 patches with 8 features; every second bag is sick."""
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(n, 12, 8)), np.arange(n) % 2
    for bag, y in zip(X, Y):
        for patch in range(rng.integers(1, 3) if y else 0):  # one or two tumour patches
            bag[patch, rng.integers(2) if kind == "several" else 0] += 5  # kinds A and B: directions 0 and 1
        if kind == "false frequency" and not y:
            bag[-5 if changed else -1 :, 0] += 2  # look-alikes
        elif kind != "false frequency" and y == changed:
            bag[-1, 2] += 5  # the bystander
    return torch.tensor(X, dtype=torch.float32), torch.tensor(Y, dtype=torch.float32)


# %% [markdown]
# Four models: mean, maximum, our ABMIL, and one that is **built** to keep the rule, or nearly. It gives each patch a probability
# $p_i$. A bag is healthy if all its patches are: $P(Y = 0) = \prod_i (1 - p_i)$. This **noisy-OR** is the rule $Y = \max(y)$ in
# the language of probability ([Maron and Lozano-Pérez,
# 1997](https://papers.nips.cc/paper_files/paper/1997/hash/82965d4ed8150294d4330ace00821d77-Abstract.html)). A further patch can
# only raise its answer.

# %%
from mil_tutorial import MaxPool, MeanPool


class NoisyOr(MaxPool):
    """Sick if any patch is: P(Y = 0) is the product of the patches' 1 - p."""

    def __init__(self, in_dim):
        super().__init__(in_dim)
        nn.init.constant_(self.classifier.bias, -3)  # a patch is healthy until something speaks against it

    def forward(self, X, mask=None, return_att=False):
        f = self.classifier(X).squeeze(-1)  # (B, N), the logit of each patch's p
        healthy = -nn.functional.softplus(f).sum(1)  # (B,) log of the product; no padding in these bags
        return torch.log(-torch.expm1(healthy)) - healthy  # the logit of 1 - P(Y = 0)


# %%
def aucs_of(make, kind, seed):
    """Train on 100 bags; AUC on 200 new bags as in training, and on 200 after the change."""
    torch.manual_seed(seed)
    network, (X, Y) = make(), make_bags(kind, 100, False, seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(X), Y).backward()
        optimizer.step()
    with torch.no_grad():
        new = [make_bags(kind, 200, changed, 100 + seed) for changed in (False, True)]
        return [auc(Y.numpy(), network(X).numpy()) for X, Y in new]


# %%
import pandas as pd

pools = {
    "mean": lambda: MeanPool(8),
    "maximum": lambda: MaxPool(8),
    "ABMIL": lambda: ABMIL(8, 16),
    "noisy-OR": lambda: NoisyOr(8),
}
rows, kept = [], {}
for kind in ["one concept", "several", "false frequency"]:
    for name, make in pools.items():
        usual, changed = np.array([aucs_of(make, kind, seed) for seed in range(5)]).T
        kept[kind, name] = changed.min() >= 0.8
        row = {"set": kind, "model": name, "as in training": f"{usual.mean():.2f}"}
        row |= {
            "after the change": f"{changed.mean():.2f}",
            "five seeds": f"{changed.min():.2f} to {changed.max():.2f}",
        }
        rows.append(row | {"keeps Y = max(y)": "yes" if kept[kind, name] else "NO"})
pd.DataFrame(rows).set_index(["set", "model"])

# %% [markdown]
# *What to see: on the first two sets ABMIL is excellent on bags as in training. After the change its mean AUC is **below 0.5**,
# and on the first set with one seed near 0: it had learnt to call a bag healthy because of the bystander. The mean fails, too,
# but less: it falls to about a coin. On false frequency the mean counts the look-alikes, and ABMIL is weak there even before
# the change. The last column is a rule of ours: "yes" if the AUC stays at 0.8 or above in all five seeds.*
#
# **What it means for a patient:** a model that breaks the rule can call a slide healthy because of something harmless on it,
# although the tumour is plain to see.
#
# Does that make ABMIL a bad model? No. On slides like those it was trained on it can do well, and notebook 5 compares. But
# nothing in its equations protects the patient whose slide is different. So run such a test, and report it beside your score.
# torchmil ships the original three sets.

# %% [markdown]
# ## What can go wrong
#
# - **Softmax over the wrong axis.** Then the weights of *one place in all bags* sum to 1. The shapes still fit. The check above
#   finds it.
# - **Overflow.** `exp(100)` is too large for float32. `torch.softmax` first subtracts the largest value; our hand-made line did
#   not:

# %%
big = torch.tensor([100.0, 0.0])
print("by hand:", (torch.exp(big) / torch.exp(big).sum()).tolist(), " torch.softmax:", torch.softmax(big, 0).tolist())

# %% [markdown]
# ## Exercises
#
# <!-- instructor, 8 min: Exercises 1 and 4; the others are homework. Exercise 4 is with pencil. Let two people with different answers explain theirs. -->
#
# **Exercise 1 (★).** Write `softmax(f)` for one bag so that it does not overflow.
#
# <details><summary>Hint</summary>Softmax does not change when you subtract the same number from every f. Which number makes the largest exponent 0?</details>


# %% tags=["exercise"]
def softmax(f):
    """Weights with the sum 1. softmax(torch.tensor([0.0, 0.0])) is tensor([0.5, 0.5])."""
    # Write your code here.


# %% tags=["check"]
from mil_tutorial.exercises import notebook_3 as check

check.softmax(softmax)


# %% tags=["solution"]
# @title Solution of exercise 1
def softmax(f):
    e = torch.exp(f - f.max())
    return e / e.sum()


assert check.softmax.accepts(softmax)
print(softmax(big).tolist())

# %% [markdown]
# **Exercise 2 (★★).** Write `mean_pool(X, mask)`: the mean of the *real* patches of each bag, (B, N, D) → (B, D).
#
# <details><summary>Hint</summary>Multiply by the mask, sum over patches, and divide by the number of real patches, not by N.</details>


# %% tags=["exercise"]
def mean_pool(X, mask):
    """One mean for each bag. X (2, 5, 3) with a mask (2, 5) gives (2, 3)."""
    # Write your code here.


# %% tags=["check"]
from mil_tutorial.exercises import notebook_3 as check

check.mean_pool(mean_pool)


# %% tags=["solution"]
# @title Solution of exercise 2
def mean_pool(X, mask):
    weight = mask.unsqueeze(-1).float()  # (B, N, 1)
    return (X * weight).sum(1) / weight.sum(1)


assert check.mean_pool.accepts(mean_pool)
print(tuple(mean_pool(batch["X"], batch["mask"]).shape))

# %% [markdown]
# **Exercise 3 (★★★).** Write `masked_softmax(f, mask)` for a padded batch, (B, N) and (B, N) → (B, N): 0 at padding, and over the
# real patches of each bag a softmax that does not overflow.
#
# <details><summary>Hint</summary>Write −∞ at the padding first, with <code>torch.where</code> or <code>masked_fill</code>. Then do what you did in exercise 1, along <code>dim=1</code>.</details>


# %% tags=["exercise"]
def masked_softmax(f, mask):
    """Weights of each bag. f [[0, 0, 9]] with the mask [[True, True, False]] gives [[0.5, 0.5, 0]]."""
    # Write your code here.


# %% tags=["check"]
from mil_tutorial.exercises import notebook_3 as check

check.masked_softmax(masked_softmax)


# %% tags=["solution"]
# @title Solution of exercise 3
def masked_softmax(f, mask):
    f = f.masked_fill(~mask, -torch.inf)
    e = torch.exp(f - f.max(dim=1, keepdim=True).values)  # exp(-inf) is 0
    return e / e.sum(dim=1, keepdim=True)


assert check.masked_softmax.accepts(masked_softmax)
print(
    "weights of each bag sum to", masked_softmax(torch.randn(2, 5), torch.ones(2, 5, dtype=torch.bool)).sum(1).tolist()
)

# %% [markdown]
# **Exercise 4 (★★★, with pencil).** All patches of a slide are in the bag twice. Predict: by which factor does each patch's weight
# change, and by how much does the logit change? Write two numbers.
#
# <details><summary>Hint</summary>Write the softmax with 2n terms. What happens to its denominator? Then write z.</details>

# %% tags=["exercise"]
weight_factor, logit_change = None, None  # write your answers here


# %% tags=["check"]
from mil_tutorial.exercises import notebook_3 as check

check.copies(weight_factor, logit_change)

# %% tags=["solution"]
# @title Solution of exercise 4
# Twice as many terms in the denominator: each weight is halved. Their weighted mean stays, and so does the logit.
# ABMIL cannot count: it sees shares.
weight_factor, logit_change = 0.5, 0.0
assert check.copies.accepts(weight_factor, logit_change)
print("each weight is halved, the logit stays")

# %% [markdown]
# ## Recap
#
# - Attention pooling is a **weighted mean**, and the weights come from the patches themselves.
# - The **mask** writes $-\infty$ before the softmax. Then padding, order and neighbours change nothing.
# - Mean and maximum are two ends of one knob. Which end is right depends on the disease.
# - ABMIL may break $Y = \max(y)$. A small made-up set shows it in seconds.
# - Small checks, such as "every parameter moves", find mistakes that no error message tells.
#
# | DO | DON'T |
# |---|---|
# | pass the **mask** wherever bags are padded | fill with zeros and hope |
# | check that order, padding and neighbours change nothing | trust shapes that fit |
# | compare with mean **and** maximum | call the mean a straw man |
# | test your model on bags in which a shortcut stops working | believe that a good AUC shows *why* |
# | use `torch.softmax` | divide `exp` by its sum yourself |
#
# ### Quiz
#
# {quiz}

# %% tags=["quiz"]
from mil_tutorial.exercises.quizzes import answer_quiz

answer_quiz(3, "")  # your five letters between the quotes: they are remembered on this computer, and nowhere else

# %% [markdown]
# ### References
#
# - M. Ilse, J. M. Tomczak, M. Welling, *Attention-based Deep Multiple Instance Learning*, ICML 2018,
#   [arXiv:1802.04712](https://arxiv.org/abs/1802.04712).
# - E. Raff, J. Holt, *Reproducibility in Multiple Instance Learning: A Case For Algorithmic Unit Tests*, NeurIPS 2023,
#   [arXiv:2310.17867](https://arxiv.org/abs/2310.17867).
# - H. Jafarinia et al., *Navigating the MIL Trade-Off: Flexible Pooling for Whole Slide Image Classification*, [NeurIPS
#   2025](https://papers.nips.cc/paper_files/paper/2025/hash/8bacb23a4f6b6f52dd5c81c15b4e4ac5-Abstract-Conference.html). The knob.
# - J. Li et al., *Can We Simplify Slide-level Fine-tuning of Pathology Foundation Models?*,
#   [arXiv:2502.20823](https://arxiv.org/abs/2502.20823). When the mean is enough.
# - O. Maron, T. Lozano-Pérez, *A Framework for Multiple-Instance Learning*, [NIPS
#   1997](https://papers.nips.cc/paper_files/paper/1997/hash/82965d4ed8150294d4330ace00821d77-Abstract.html). Noisy-OR.
# - M. Zaheer et al., *Deep Sets*, NeurIPS 2017, [arXiv:1703.06114](https://arxiv.org/abs/1703.06114). Why the order of a set must
#   not matter, and what follows.
#
# **Next:** notebook 4 trains the model, on a GPU if there is one.

# %% tags=["result"]
agreement = (a - b).abs().max().item()
keepers = [name for name in pools if all(kept[kind, name] for kind, other in kept if other == name)]
print(f"Key result: our ABMIL equals torchmil's, up to {agreement:.0e}; Y = max(y) is kept by {' and '.join(keepers)}")
