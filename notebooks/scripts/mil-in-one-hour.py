# %% [markdown]
# # Multiple Instance Learning for whole-slide images, in one hour
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mil-tutorial/mil-tutorial/blob/main/notebooks/mil-in-one-hour.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/mil-tutorial/mil-tutorial/main?labpath=notebooks/mil-in-one-hour.ipynb) [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/mil-tutorial/mil-tutorial/blob/main/notebooks/mil-in-one-hour.ipynb)
#
# **Creator:** the mil-tutorial authors, after [*Multiple Instance Learning for Histopathology: An Introduction to
# torchmil*](https://github.com/Franblueee/rise-miccai-tutorial) by Francisco M. Castro-Macías · **Time:** 45 to 60 minutes ·
# **Video:** *a place for the recording*
#
# ---
#
# ## 1. Title and overview
#
# From a slide of a lymph node with **one label** to a model that says whether there is a tumour, and a map that says where it
# looked. You build the model and its training by hand. It is the short form of a [course of six
# notebooks](https://github.com/mil-tutorial/mil-tutorial).
#
# **By the end you will be able to**
#
# - **understand** what a bag, an instance and the MIL assumption are;
# - **implement** attention-based MIL (ABMIL) and its training loop in PyTorch;
# - **evaluate** it on test slides with a threshold from validation slides and an interval;
# - **visualize** where it looked, and say what such a map does *not* show.

# %% [markdown]
# ---
#
# ## 2. Introduction
#
# **Background.** A woman has breast cancer. Has it spread? The first place to look is the sentinel lymph node. A pathologist
# searches its slide for a metastasis, which can be a few cells among millions. A slide from a hospital has billions of pixels and
# one label; nobody has marked where the tumour is. **Multiple Instance Learning** (MIL) learns from such labels.
#
# **Why it matters.** The search is long, and small metastases are missed. In the CAMELYON16 study the best of 11 pathologists
# with limited time reached an AUC of 0.884 on 129 slides (1 is perfect, 0.5 is a coin), the best program 0.994, and a pathologist
# without a time limit 0.966 ([Ehteshami Bejnordi et al., 2017](https://doi.org/10.1001/jama.2017.14585)). Whether that helps
# patients has to be shown in a clinic.
#
# **Real-world use**
#
# - Sorting: suspicious slides are read first.
# - A second look: the model points at places.
# - Research: which tissue goes with an outcome, where nobody can draw the answer.

# %% [markdown]
# ---
#
# ## 3. Prerequisites
#
# **You need** Python, NumPy and a first network trained in PyTorch. No pathology. The next cell installs what is missing.

# %% tags=["from-01"]
# Set-up, the same in all six notebooks.

# %% [markdown]
# **Data.** [CAMELYON16](https://camelyon16.grand-challenge.org/): slides of sentinel lymph nodes from two hospitals in the
# Netherlands, CC0. By default this notebook takes **synthetic slides**, which a program draws: nothing is downloaded, and no
# number below says anything about patients. One line of the cell above switches to tissue of patients.
#
# ---
#
# ## 4. Hands-on
#
# ### 4.1 Look
#
# Where is the tumour? Look for a minute before you go on.

# %% tags=["from-01"]
# wsi_name = data.small_example

# %% [markdown]
# ### 4.2 A slide becomes a bag
#
# The slide is cut into **patches**, and a network that was trained on other pictures turns each patch into a vector, its
# **features**. All features of a slide are its **bag**. The label belongs to the bag. The usual assumption:
#
# $$Y = \max(y_1, \dots, y_n)$$
#
# A bag is positive if at least one of its instances is. The model sees $Y$. The $y_i$ stay hidden.

# %% tags=["from-02"]
# for ax, n_positive, title in zip(axes, [0, 2]

# %%
dataset = data.bags("train")
bag = dataset[dataset.get_bag_names().index(wsi_name)]
print(
    f"{wsi_name}: X {tuple(bag['X'].shape)}, {bag['X'].shape[0]} patches with {bag['X'].shape[1]} features; Y = {bag['Y']:.0f}"
)
D = bag["X"].shape[1]

# %% [markdown]
# ### 4.3 Attention: a weighted mean whose weights are learnt
#
# The mean hides a small tumour; the maximum learns from one patch at a time. **Attention** is between the two.

# %% tags=["from-03"]
# "attention": np.array(

# %% [markdown]
# Attention in three lines: a score for each patch, $f_i = \mathbf{w}^\top \tanh(\mathbf{V}\mathbf{x}_i)$; the softmax $s_i$ of
# the scores, positive weights with sum 1; the weighted mean $\mathbf{z} = \sum_i s_i \mathbf{x}_i$, which a linear layer
# classifies ([Ilse et al., 2018](https://arxiv.org/abs/1802.04712)). Bags of different sizes are filled up with zeros, and the
# **mask** gives these rows the weight 0.

# %% tags=["from-03"]
# class ABMIL(nn.Module):

# %% [markdown]
# A bag is a set. So the answer must not change with the order of its patches, with padding, or with its neighbours in a batch:

# %% tags=["from-03"]
# together, f = model(batch

# %% [markdown]
# **Exercise (★★).** The other pooling, the mean: write `mean_pool(X, mask)`: the mean of the *real* patches of each bag, (B, N,
# D) → (B, D).
#
# <details><summary>Hint</summary>Multiply by the mask, sum over patches, and divide by the number of real patches, not by N.</details>

# %% tags=["from-03", "exercise"]
# def mean_pool(X, mask)

# %% tags=["from-03", "check"]
# check.mean_pool(mean_pool)

# %% tags=["from-03", "solution"]
# check.mean_pool.accepts(mean_pool)

# %% [markdown]
# ### 4.4 Training
#
# A fifth of the training slides, drawn by patient, becomes the **validation** set. It chooses the epoch. The test slides choose
# nothing.

# %% tags=["from-04"]
# device = pick_device()

# %% tags=["from-04"]
# train_loader, val_loader = make_loader(

# %% tags=["from-04"]
# def train_epoch(model, optimizer):

# %% tags=["from-04"]
# def validation_loss(model):

# %% tags=["from-04"]
# LEARNING_RATE = 5e-4

# %% tags=["from-04"]
# def draw_curves(

# %% [markdown]
# *What to see: the blue curve goes on falling, the orange one levels off. From there on the model learns its slides by heart.*
#
# ### 4.5 Your model finds a tumour
#
# A validation slide, on which the model was not trained:

# %% tags=["from-04"]
# looked = attention_times_n(asked.attention[0])  # 1 is a fair share of the attention

# %% tags=["from-04"]
# map_of_model = draw_heatmap(

# %% [markdown]
# *What to see: on the right, the darker a patch, the more the model looked at it. No patch had a label in training.*
#
# ### 4.6 How good is it?
#
# Now, and only now, the test slides. A slide is called tumour above a **threshold**, which the validation slides choose.

# %%
test_set = data.bags("test")
test = predict(model, make_loader(test_set))
print(f"{len(test.names)} test slides, {test.Y.sum()} with tumour")

# %% tags=["from-05"]
# false_negative = (~called & (test.Y == 1)).sum()

# %% [markdown]
# One number is not enough: other test slides would give another one. The **interval** says how far it may move.
#
# The interval says nothing about luck in training. Another split, or other weights at the start, would give another number, too.
# Notebook 5 of the course trains several times, and its numbers are not the one below.

# %% tags=["from-05"]
# metrics = bag_metrics(test.Y, test.prob

# %% [markdown]
# ### 4.7 A map that misleads
#
# Attention is shared out on **every** slide. Many papers scale it from smallest to largest. What does a healthy slide look like
# then?

# %%
wsi_name = data.example  # the test slide with the most tumour
attention, probability = dict(zip(test.names, test.attention)), dict(zip(test.names, test.prob))
normal_slides = [name for name, y in zip(test.names, test.Y) if y == 0]


def draw_canvas(name):
    """A slide's patches, and their picture with the row and column of each."""
    patches = test_set.read_patches(name)
    slide = open_slide(data.slide_path(name))
    return patches, *read_canvas(slide, patches.coords, patches.geometry.patch_size_level0)


_, canvas, rows, columns = draw_canvas(wsi_name)
f = attention[wsi_name]
prediction = draw_heatmap(canvas, (f - f.min()) / (f.max() - f.min()), rows, columns, 50)

# %% tags=["from-06"]
# normal_min_max = scale_min_max(attention[normal_name])

# %% [markdown]
# *What to see: the right slide has no tumour, and the model knows it: its probability is above the picture. The picture looks
# guilty all the same.*
#
# Attention says where a model looked, not what it concluded. The course tests maps by taking patches away, and by putting tumour
# into healthy slides.
#
# ---
#
# ## 5. Challenges and limitations
#
# **Pitfalls**
#
# | DO | DON'T |
# |---|---|
# | split by **patient** | split patches, or slides of one patient |
# | choose epoch and threshold on validation slides | look at the test slides until you like the number |
# | report several seeds and an interval | report your best run |
# | show maps of healthy slides, on one scale | show one beautiful map |
# | test whether your model keeps $Y = \max(y)$ | believe that it must ([Raff and Holt, 2023](https://arxiv.org/abs/2310.17867)) |
#
# **Known limits.** Two hospitals, one organ, one disease. Another scanner can change the answer. Here the slides are synthetic
# and the encoder is small; with features of a foundation model for pathology the numbers on real slides are higher.
#
# **Ethics.** The model is no diagnosis: a person sees the slide, decides, and is responsible. Use slides as consent and licence
# allow, and without names. Ask who is missing from the data: the model serves them worst. Say what it does badly next to what it
# does well.
#
# ---
#
# ## 6. Further reading
#
# - M. Ilse, J. M. Tomczak, M. Welling, *Attention-based Deep Multiple Instance Learning*, ICML 2018,
#   [arXiv:1802.04712](https://arxiv.org/abs/1802.04712).
# - B. Ehteshami Bejnordi et al., JAMA 318 (2017), [doi:10.1001/jama.2017.14585](https://doi.org/10.1001/jama.2017.14585). The
#   CAMELYON16 challenge.
# - E. Raff, J. Holt, *Reproducibility in Multiple Instance Learning: A Case For Algorithmic Unit Tests*, NeurIPS 2023,
#   [arXiv:2310.17867](https://arxiv.org/abs/2310.17867).
# - S. Jain, B. C. Wallace, *Attention is not Explanation*, NAACL 2019, [arXiv:1902.10186](https://arxiv.org/abs/1902.10186).
# - [torchmil](https://torchmil.readthedocs.io/), a library with many MIL models, and
#   [TRIDENT](https://github.com/mahmoodlab/TRIDENT), which computes features.
# - The [whole course](https://github.com/mil-tutorial/mil-tutorial): slides and labels, bags, ABMIL, training, evaluation,
#   localization, with exercises.

# %% tags=["result"]
print(f"Key result: test AUC {metrics['auc']}, validation loss {best_loss:.3f} at epoch {best_epoch + 1}")
