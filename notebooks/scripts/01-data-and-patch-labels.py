# %% [markdown]
# # 1 · Data and patch labels
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mil-tutorial/mil-tutorial/blob/main/notebooks/01-data-and-patch-labels.ipynb) [![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/mil-tutorial/mil-tutorial/main?labpath=notebooks/01-data-and-patch-labels.ipynb)
#
# **Course: Multiple Instance Learning for whole-slide images** · notebook 1 of 6
#
# | | |
# |---|---|
# | **You will be able to** | say what the course is about, and for whom · open a whole-slide image · find the tissue · cut it into patches · give each patch a label from a tumour mask |
# | **You need** | Python and NumPy (necessary) · a first idea of what a microscope slide is (helpful) |
# | **Time** | about 50 minutes to read and do |
# | **Measured** | runs in 5 s and takes 0.5 GB of memory, on two CPU cores |
# | **Data** | synthetic slides, drawn by a program. They behave like CAMELYON16, but they do not come from patients |
#
# This course rebuilds and extends the tutorial
# [*Multiple Instance Learning for Histopathology: An Introduction to torchmil*](https://github.com/Franblueee/rise-miccai-tutorial)
# by Francisco M. Castro-Macías. Set `MIL_TUTORIAL_DATA` to a folder with the real CAMELYON16, and the same cells run on it.

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
# ## Is there a tumour, and where?
#
# <!-- instructor, 6 min: Begin here, before any word about files: let them look for a minute. Ask who sees the tumour, and who could draw its border. Then run the next cell. -->
#
# A woman has breast cancer. Has it spread? The first place to look is the **sentinel lymph node**, which receives the lymph of
# the breast first. It is cut, stained and scanned. The stain is H&E: haematoxylin makes nuclei blue, eosin makes the rest pink. A
# pathologist looks for a **metastasis**: cancer cells that came with the lymph.
#
# Here is such a slide. With nothing set, `open_data()` gives the synthetic slides. **Look for the tumour before you go on.**

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from mil_tutorial import open_data, open_slide, read_overview, show_images

data = open_data()
kind = "synthetic slides" if data.synthetic else "slides of patients: CAMELYON16" if data.fetched else "your slides"
counts = data.labels["wsi_label"].value_counts()
print(f"data root: {data.root.name}, {kind}: {counts[0]} normal, {counts[1]} with tumour")

wsi_name = data.small_example  # a training slide with a small tumour
slide = open_slide(data.slide_path(wsi_name))
overview = read_overview(slide, downsample=max(slide.dimensions) / 900)
show_images([overview], [f"{wsi_name}: a lymph node{' (synthetic)' if data.synthetic else ''}"], width=9)
plt.show()

# %% [markdown]
# *What to see: a lymph node. The dark blue-purple dots are nuclei of lymphocytes, about 7 µm wide. Pink is connective tissue.
# The pale round spots are follicles; they are healthy. The empty bubbles at the rim are fat, a dark streak is a fold in the
# tissue, and around it all is glass.*
#
# A slide from a hospital holds billions of pixels and, as a rule, has **one label**: tumour, or no tumour. Nobody has marked
# where. **Multiple Instance Learning** (MIL) learns from such labels. The slide becomes a **bag** of small squares, the
# **patches**. A model answers for the whole bag, and it can say which patches it looked at.
#
# You will build each step yourself, so do not try to follow the next two cells yet. They show where the course goes. A model
# learns from all **other** training slides, with one label each. It has never seen this one.

# %%
from mil_tutorial import ABMIL, attention_times_n, bags_in_memory, fit, make_loader, predict

bags = data.bags("train")
names = bags.get_bag_names()
others = bags.subset([i for i, name in enumerate(names) if name != wsi_name])
others = bags_in_memory(others, patches=data.budget.patches, progress=False)  # of a large slide a part
this_one = bags.subset([names.index(wsi_name)])

torch.manual_seed(0)
model = ABMIL(bags[0]["X"].shape[1])
fit(model, make_loader(others, data.budget.batch_size, seed=0), make_loader(others), epochs=6, lr=1e-3, progress=False)
answer = predict(model, make_loader(this_one))
looked = attention_times_n(answer.attention[0])  # how much it looked at each patch; 1 is a fair share
print(f"the model's probability of tumour: {answer.prob[0]:.2f}")

# %%
from mil_tutorial import draw_heatmap, read_canvas

patches = bags.read_patches(wsi_name)
side = patches.geometry.patch_size_level0
px = data.budget.px  # of a patch on the picture
canvas, rows, columns = read_canvas(slide, patches.coords, side, px=px)
looked_map = draw_heatmap(canvas, looked / looked.max(), rows, columns, px=px, alpha=0.5, cmap="Oranges")
show_images([overview, looked_map], [wsi_name, "where the model looked; nobody told it where the tumour is"], width=13)
plt.show()

# %% [markdown]
# *What to see: on the right the slide is cut into patches. The darker a patch, the more the model looked at it. At the end of
# this notebook you will know which patches hold tumour. Notebook 4 trains this model, notebook 5 asks how good it is, and
# notebook 6 asks whether such a map can be trusted.*
#
# A synthetic slide is smaller than a real one: this one is about 12 000 pixels wide and has some 40 patches. A real slide may be
# 100 000 pixels wide and has thousands of patches. The steps are the same.
#
# ## A slide is a pyramid
#
# <!-- instructor, 4 min: Common mistake: reading level 3 with a corner in level-3 pixels. The corner is always in level-0 pixels. Let someone predict what a wrong corner would show. -->
#
# A slide file holds the same picture several times, each half as wide and half as high as the one before. **Level 0** is the full
# resolution. The others are there so that you can look at the whole without reading a billion pixels.

# %%
for level, ((width, height), factor) in enumerate(zip(slide.level_dimensions, slide.level_downsamples)):
    print(f"level {level}: {width:6d} x {height:5d} pixels   1 pixel = {factor:3.0f} x {factor:.0f} pixels of level 0")

# %%
# 200 x 200 pixels, read at four levels, around the middle of the patch that the model looked at most.
center = patches.coords[looked.argmax()] + side // 2
views, titles = [], []
for level in [0, 1, 2, 3]:
    factor = slide.level_downsamples[level]
    corner = (center - 100 * factor).astype(int)
    views.append(np.array(slide.read_region(tuple(corner.tolist()), level, (200, 200)))[:, :, :3])
    titles.append(f"level {level}: {200 * factor:.0f} pixels wide")
show_images(views, titles)
plt.show()

# %% [markdown]
# *What to see: from left to right you step back from the microscope. On the left single nuclei; on the right the tissue's
# pattern. (If the left picture is blurred, the scanner was out of focus there: that is a fault of the scan, not of level 0.)*
#
# Note that `read_region` wants the corner in level-0 pixels, whatever the level. Many errors begin there.
#
# ## How large is a pixel?
#
# <!-- instructor, 2 min: "40x" is a word, µm per pixel is a number. Ask for the width of a lymphocyte's nucleus (about 7 µm) in pixels. -->
#
# Files say it in **µm per pixel** (mpp). People say it as **magnification**: about 0.25 µm is called 40x, about 0.5 µm 20x.
# So a patch at 20x covers twice as many pixels of a 40x slide, along each side.

# %%
mpp = float(slide.properties["openslide.mpp-x"])
level0_magnification, target_magnification = 40, 20
patch_size = patches.geometry.patch_size  # 512 here and in the original tutorial; others take 256
patch_size_level0 = patch_size * level0_magnification // target_magnification
print(f"{mpp:.3f} µm per pixel at level 0")
print(f"a patch of {patch_size} px at {target_magnification}x = {patch_size_level0} px at level 0")
print(f"that is {patch_size_level0 * mpp:.0f} µm of tissue")
assert patch_size_level0 == patches.geometry.patch_size_level0, "the file says something else: trust the file"

# %% [markdown]
# Patch sizes, magnification and slide size are stored in a file of coordinates, which comes below. From here on we ask the file
# and never type them in. A wrong guess here shifts every heatmap later.
#
# ## Find the tissue
#
# <!-- instructor, 3 min: Ask what will be missed: pale fat, and what will be found though it is none: pen marks. -->
#
# Most of a slide is empty glass. Tissue is stained, so it has colour; glass is grey. The **saturation** of a pixel says how
# much colour it has. Otsu's method finds the threshold that best separates the two groups.

# %%
import cv2

small = read_overview(slide, downsample=8 / mpp)  # 8 µm per pixel is enough for outlines
saturation = cv2.cvtColor(cv2.medianBlur(small, 5), cv2.COLOR_RGB2HSV)[:, :, 1]
threshold, by_hand = cv2.threshold(saturation, 0, 1, cv2.THRESH_OTSU)
print(f"Otsu's threshold: {threshold:.0f} of 255; {by_hand.mean():.0%} of the slide is above it")

# %%
from mil_tutorial import segment_tissue

# The same idea, and it fills holes and drops specks. Pen is left in, as in the files that ship with the course.
tissue = segment_tissue(small, remove_penmarks=False)
show_images([small, saturation, by_hand, tissue], ["slide", "saturation", "above Otsu's threshold", "segment_tissue"])
plt.show()

# %% [markdown]
# *What to see: the third picture has a few tiny holes and specks near the edge. The fourth, from the package, has closed the
# holes and dropped the specks.*
#
# ## Cut it into patches
#
# <!-- instructor, 5 min: Common mistake: 512 pixels at 20x taken for 512 level-0 pixels. On a 40x slide the square is then four times too small in area. -->
#
# A grid starts at the slide's corner. Every square that touches tissue is kept. That is all.

# %%
factor = slide.dimensions[0] / tissue.shape[1]
across, down = (range(0, length, patch_size_level0) for length in slide.dimensions)
grid = [(x, y) for y in down for x in across]


def tissue_share(x, y):
    """The part of a square that is tissue, 0 to 1."""
    x0, y0 = int(x / factor), int(y / factor)
    x1, y1 = int(np.ceil((x + patch_size_level0) / factor)), int(np.ceil((y + patch_size_level0) / factor))
    return tissue[y0:y1, x0:x1].mean()


kept = np.array([corner for corner in grid if tissue_share(*corner) > 0])
print(f"{len(grid)} places in the grid, {len(kept)} touch tissue")

# %%
from matplotlib.collections import PatchCollection

axes = show_images([small], [f"{len(kept)} patches of {patch_size_level0} level-0 pixels"], width=9)
side = patch_size_level0 / factor
squares = [plt.Rectangle((x, y), side, side) for x, y in kept / factor]
axes[0].add_collection(PatchCollection(squares, facecolor="none", edgecolor="black", lw=0.8))
plt.show()

# %% [markdown]
# *What to see: the squares cover what was found as tissue. Most of the pale fat above the node is missed. At the right and lower
# edge of a slide, squares may reach past it.*
#
# On other slides, colour alone also finds pen marks. `segment_tissue` leaves them out unless it is told to keep them.
#
# The course ships with such corners, in an h5 file for each slide. A check that you can see: on the synthetic slides our
# hand-made grid gives the very patches of the file.

# %%
import h5py

with h5py.File(data.trident_dir / "patches" / f"{wsi_name}_patches.h5") as file:
    coords = file["coords"][:]
    attributes = dict(file["coords"].attrs)
same = {tuple(c) for c in kept.tolist()} == {tuple(c) for c in coords.tolist()}
print(f"{len(coords)} patches in the file; the same as ours: {same}")
if data.synthetic:
    assert same

# %% [markdown]
# ## TRIDENT does this for hundreds of slides
#
# <!-- instructor, 3 min: No need to run TRIDENT in class. Show the folder tree; the files are the ones that the next notebook reads. -->
#
# For real work, [TRIDENT](https://github.com/mahmoodlab/TRIDENT) finds the tissue, cuts the patches and computes their features
# with a **foundation model**: a large network trained on very many slides. For some of these, such as CONCH v1.5, you need an
# account to get the weights, and most are slow without a GPU. (TRIDENT's Otsu segmentation runs on a CPU.)
#
# ```bash
# python run_batch_of_slides.py --task all --wsi_dir CAMELYON16/images --job_dir CAMELYON16/trident_processed \
#     --patch_encoder conch_v15 --mag 20 --patch_size 512
# ```
#
# Our own command takes the same options. It uses a small encoder that fits on a laptop, and writes the same files:
#
# ```bash
# mil-tutorial prepare --wsi_dir images --job_dir trident_processed --mag 20 --patch_size 512
# ```
#
# This is the tree that both write. `patch_labels` is added later in this notebook.

# %%
print(data.trident_dir.parent.name + "/")
print("└──", data.trident_dir.name + "/")
for folder in sorted(p for p in data.trident_dir.iterdir() if p.is_dir()):
    files = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    print(f"    ├── {folder.name}/   {', '.join(files[:2])}, … ({len(files)} files)")

# %%
print("coords:", coords.shape, coords.dtype, "- x and y of each patch's top-left corner, in level-0 pixels")
for key, value in sorted(attributes.items()):
    print(f"  {key:22s} {value}")

# %% [markdown]
# ## Labels from the mask
#
# <!-- instructor, 5 min: Ask first: what should a patch be called that is 30 % tumour? There is no right answer, only one that is written down. -->
#
# A pathologist drew around the tumour. From the drawing comes a **mask**, a picture of the slide's size with
# 0 for background, 1 for tissue, 2 for tumour. A patch's **tumour share** is the part of its pixels with value 2.
# If the share is larger than one half, the patch gets label 1.
#
# > **Predict:** a patch lies half in, half out of a metastasis. Would you call it tumour? What would a model see in it?
#
# By hand, for three patches, counting every pixel of level 0:

# %%
import time

mask = open_slide(data.mask_path(wsi_name))


def tumor_share(x, y):
    values = np.array(mask.read_region((x, y), 0, (patch_size_level0, patch_size_level0)))[:, :, 0]
    return (values == 2).mean()


some = coords[[0, int(looked.argmax()), -1]].tolist()  # the second is where the model looked most
for x, y in some:
    print(f"patch at x={x:6d}, y={y:6d}: tumour share {tumor_share(x, y):.3f}")

# %%
from mil_tutorial import label_patches

labels = label_patches(data.mask_path(wsi_name), coords, patch_size_level0, tumor_value=2, threshold=0.5)
by_hand = np.array([tumor_share(x, y) for x, y in some], np.float32)
where = [coords.tolist().index(corner) for corner in some]
assert np.allclose(labels.fraction[where], by_hand), "the package must count the same pixels"
print(f"{(labels.label == 1).sum()} of {len(coords)} patches are tumour")

# %% [markdown]
# `show_patches` makes a contact sheet: above each patch its number on this sheet and its label, below it its place. We take some
# of the tumour patches and every third of the others:

# %%
from mil_tutorial import show_patches

tumour = np.flatnonzero(labels.label == 1)
shown = np.sort(np.concatenate([tumour[:4], np.setdiff1d(np.arange(0, min(len(coords), 48), 3), tumour[:4])]))[:16]
show_patches(slide, coords[shown], patch_size_level0, labels=labels.label[shown], columns=8)
plt.show()

# %% [markdown]
# *What to see: orange frames are patches with the label tumour. Their nuclei are larger and paler than the lymphocytes around.
# Patches at the edge of the tissue are half white or nearly all glass: whatever touches anything coloured is kept.*

# %% [markdown]
# ### Exercise 1 (★): beat that number
#
# <!-- instructor, 4 min: Ask what happens to a tumour at the very edge if the minimum is too high. -->
#
# Many patches are nearly all glass. They cost time and say nothing. Set `my_minimum`, the least **tissue share** of a patch that
# is kept, so that **as few patches as possible** are left and **no tumour patch is lost**. `tissue_share(x, y)` is from above.
# The check knows the best answer; come within two patches of it.
#
# <details><summary>Hint</summary>What is the tissue share of the tumour patch that has the least? <code>coords[labels.label == 1]</code> are the corners of the tumour patches.</details>

# %% tags=["exercise"]
my_minimum = None  # write a number from 0 to 1, or a formula


# %% tags=["check"]
from mil_tutorial.exercises import notebook_1 as check

check.my_minimum(my_minimum, tissue_share, coords, labels)

# %% tags=["solution"]
# @title Solution of exercise 1
my_minimum = min(tissue_share(x, y) for x, y in coords[labels.label == 1].tolist())
assert check.my_minimum.accepts(my_minimum, tissue_share, coords, labels)
left = sum(tissue_share(x, y) >= my_minimum for x, y in coords.tolist())
print(f"{left} of {len(coords)} patches are left with a minimum of {my_minimum:.2f}")

# %% [markdown]
# This minimum fits **one** slide, and you looked at its tumour to find it. Real settings are chosen once for all slides, on
# training slides, and with a margin: `mil-tutorial prepare --min_tissue_proportion 0.2` is a cautious one.

# %% [markdown]
# ### Why the package is fast, and still exact
#
# Counting is slow because a patch has a million pixels. But look at how the mask is stored: as small compressed **tiles**. Equal
# bytes unpack to equal pixels, so each distinct tile needs to be unpacked only once. And many tiles are equal: all that hold
# nothing but background, for example. The next cell counts them.

# %%
import tifffile

with tifffile.TiffFile(data.mask_path(wsi_name)) as tiff:
    level0 = tiff.pages[0]
    tiles = []
    for offset, size in zip(level0.dataoffsets, level0.databytecounts):
        tiff.filehandle.seek(offset)
        tiles.append(tiff.filehandle.read(size))
print(
    f"{len(tiles)} tiles of {level0.tilewidth} x {level0.tilelength} pixels, but only {len(set(tiles))} different ones"
)

# %%
start = time.perf_counter()
for x, y in some:
    tumor_share(x, y)
seconds_slow = (time.perf_counter() - start) / len(some)
start = time.perf_counter()
label_patches(data.mask_path(wsi_name), coords, patch_size_level0)
seconds_fast = (time.perf_counter() - start) / len(coords)
print(f"per patch: {seconds_slow * 1000:.2f} ms by counting, {seconds_fast * 1000:.2f} ms from distinct tiles")

# %% [markdown]
# Could we not simply read a coarse level of the mask? That is faster still, but it can be wrong: whoever made the coarse level
# may have dropped a lesion of a few pixels. Level 0 has lost nothing.

# %%
order = np.argsort(labels.fraction)[:: max(1, len(coords) // 500)]  # of thousands of patches, 500 bars are enough
fig, ax = plt.subplots(figsize=(8, 2.8))
ax.bar(range(len(order)), labels.fraction[order], color=np.where(labels.label[order] == 1, "#D55E00", "#0072B2"))
ax.axhline(labels.threshold, color="black", lw=1, ls="--")
ax.set(
    xlabel="patches, sorted",
    ylabel="tumour share",
    title="Some patches are all tumour, some none; the border is between",
)
plt.show()

# %% [markdown]
# *What to see: orange bars are patches with label 1, above the dashed threshold, some only just. Between 0 and 1 lie the patches
# on the tumour's border: for them any label is partly wrong.*
#
# ### When no patch is more than half tumour
#
# <!-- instructor, 3 min: The original tutorial halves the threshold here. Discuss: is that label still the same thing? -->
#
# The smallest lesions, isolated tumour cells, are at most 0.2 mm long, and a patch is wider than that. Then often no patch
# reaches one half. The original tutorial halves the threshold until some patch is positive. Ours does it if asked, and says so.
# On slides that were annotated only in part, a patch outside the drawing is **unknown**, -1, and not 0.

# %%
train = data.split("train")
counts = {}
for name in train.loc[train["wsi_label"] == 1, "wsi_name"]:
    with h5py.File(data.trident_dir / "patch_labels" / f"{name}.h5") as file:
        used = file["patch_labels"].attrs.get("threshold", 0.5)
        counts[name] = (int((file["patch_labels"][:] == 1).sum()), float(used))
halved = {name: value for name, value in counts.items() if value[1] < 0.5}
print(f"{len(halved)} of {len(counts)} tumour slides of the training set needed a lower threshold:")
for name, (n, used) in halved.items():
    print(f"  {name}: {n} tumour patch(es) at a threshold of {used:.4f}")

# %% [markdown]
# For a whole folder there is a command. It takes the options of the original script:
#
# ```bash
# mil-tutorial labels --csv_path wsi_labels.csv --masks_dir masks --coords_dir trident_processed/20x_512px_0px_overlap/patches \
#     --save_dir trident_processed/20x_512px_0px_overlap/patch_labels
# ```
#
# ## The whole slide on a canvas
#
# <!-- instructor, 3 min: This picture comes back in notebook 6 with colours on it. -->
#
# To see all patches at once, as in the map at the top, we shrink each of them to 50 pixels and put it at its row and column. The
# slow way reads every patch at full resolution. We do that for eight patches only, and time it.

# %%
start = time.perf_counter()
slow = []
for x, y in coords[:8].tolist():
    patch = np.array(slide.read_region((x, y), 0, (patch_size_level0, patch_size_level0)))[:, :, :3]
    slow.append(cv2.resize(patch, (50, 50), interpolation=cv2.INTER_AREA))
seconds_slow = (time.perf_counter() - start) / 8

# %%
start = time.perf_counter()
canvas, rows, columns = read_canvas(slide, coords, patch_size_level0, px=50)
seconds_fast = (time.perf_counter() - start) / len(coords)

x, y = (columns * 50).round().astype(int), (rows * 50).round().astype(int)  # each patch's corner on the canvas
fast = [canvas[y[i] : y[i] + 50, x[i] : x[i] + 50] for i in range(8)]
difference = np.abs(np.array(slow, int) - np.array(fast, int)).mean()
print(f"per patch: {seconds_slow * 1000:.1f} ms at level 0, {seconds_fast * 1000:.1f} ms from the level that fits")
print(f"mean difference of a pixel: {difference:.1f} of 255")
assert difference < 6 or not data.synthetic

# %% [markdown]
# The fast way reads from a level of the pyramid that is only a little finer than we need. Whoever made the file has done most of
# the averaging; we do the rest. One read takes many neighbours at once. Now the same canvas with the labels on top:

# %%
overlay = draw_heatmap(canvas, (labels.label == 1).astype(float), rows, columns, px=50)
show_images([looked_map, overlay], ["where the model looked", "patch labels: red tumour, green normal"], width=13)
plt.show()

# %% [markdown]
# *What to see: on the right red squares lie on the tumour, green ones elsewhere. Compare with the left: did the model look at
# tumour? The red and green are those of the original tutorial. Most maps of this course use colours that colour-blind readers can
# tell apart.*
#
# A canvas shows patches one beside the other. `draw_patches` shows where they lie on the slide, border and all:

# %%
from mil_tutorial import draw_patches

show_images(
    [draw_patches(slide, coords, patch_size_level0, labels=labels.label)],
    ["patches where they lie: orange tumour, blue normal"],
    width=9,
)
plt.show()

# %% [markdown]
# ## In torchmil
#
# torchmil has the same two functions. Same input, same picture:

# %%
from torchmil.visualize import draw_heatmap_wsi, patches_to_canvas

if rows.dtype.kind == "i":
    patches = [canvas[r * 50 : r * 50 + 50, c * 50 : c * 50 + 50] for r, c in zip(rows, columns)]
    their_canvas = patches_to_canvas(patches, rows, columns, 50)
    their_overlay = draw_heatmap_wsi(canvas, (labels.label == 1).astype(float), 50, rows, columns)
    assert np.array_equal(their_canvas, canvas)
    assert np.abs(their_overlay.astype(int) - overlay.astype(int)).max() <= 2  # their colours have more digits
    print("torchmil's canvas is ours, pixel for pixel; its overlay differs by at most 2 of 255")
else:
    print("here each piece of tissue has its own grid: rows and columns are fractions, which torchmil does not take")

# %% [markdown]
# ## From a patch to a feature vector
#
# <!-- instructor, 3 min: The network has seen cats and cars, no tissue. Ask whether it can work. Notebook 5 answers. -->
#
# A model does not see pixels. A **patch encoder**, a network trained before on other images, turns each patch into a vector. Ours
# is EfficientNet-Lite0 with ImageNet weights: small, free, and it has never seen a lymph node. On real slides, encoders trained
# on pathology usually do better ([Wölflein et al.](https://arxiv.org/abs/2311.11772)).

# %%
from mil_tutorial import read_patch

if "efficientnet_lite0" in data.encoders:
    from mil_tutorial import load_encoder

    encoder = load_encoder()
    pictures = np.stack([read_patch(slide, x, y, patch_size_level0, px=encoder.px) for x, y in coords[:5].tolist()])
    features = encoder.encode(pictures)
    with h5py.File(data.trident_dir / "features_efficientnet_lite0" / f"{wsi_name}.h5") as file:
        stored = file["features"][:5].astype(np.float32)
    print("patches", pictures.shape, "-> features", features.shape)
    print(f"largest difference to the stored features: {np.abs(features - stored).max():.4f}")
    assert np.abs(features - stored).max() < 0.02

# %% [markdown]
# ## Why it matters, for whom, and where it ends
#
# <!-- instructor, 5 min: Let a clinician in the room speak first. No slide can replace that. -->
#
# **For the patient** the answer decides about treatment. **For the pathologist** the search is long and easy to get wrong: small
# metastases are a few cells among millions. In CAMELYON16's own study, 11 pathologists read the 129 test slides as in routine
# work, with limited time. The best of them reached an AUC of 0.884 (1 is perfect, 0.5 is a coin; more in notebook 5), the best
# program 0.994, and a pathologist without a time limit 0.966 ([Ehteshami Bejnordi et al.,
# 2017](https://doi.org/10.1001/jama.2017.14585)). Whether such a program helps in a clinic still has to be tested, says the same
# article.
#
# **What such a model may be good for:** it can sort a pile of slides, so that the suspicious ones are read first, and it can
# point at places for a second look. **What it is not:** a diagnosis. A person decides, sees the slide, and is responsible.
#
# **Limits.** CAMELYON16 is two hospitals, one organ, one disease. Another scanner or another staining can change the answer
# (notebook 5). A label is an opinion, too, and some are wrong. The synthetic slides are drawn by a program. They teach the
# method, and none of their numbers says anything about patients.
#
# **Ethics.** Slides are patients' tissue: use them as their consent and licence allow (CAMELYON16 is free, CC0), and without
# names. Ask who is **missing** from the data: the model will serve them worst. Say what it does badly, next to what it does well.

# %% [markdown]
# ## What can go wrong
#
# - **No microns per pixel in the file.** Then nobody knows the magnification. Our tools stop and ask: `--mpp` for all such
#   slides, `--mpp_csv` slide by slide.
# - **A mask with other values.** Converted masks use 1 or 255 for tumour. That is why the tumour value is always said.
# - **Files that do not fit together**, half-written files, a slide in both splits, NaN. `mil-tutorial check <data root>` looks at
#   everything and prints one table. Run it before you train.
# - **A wrong name.** Errors should help. Here is one, met on purpose:

# %%
from mil_tutorial import DataError

try:
    open_slide(data.root / "images" / "no_such_slide.tif")
except DataError as error:
    print(str(error).replace(str(data.root), "<data root>"))

# %% [markdown]
# ## Exercises
#
# <!-- instructor, 5 min: In pairs. Whoever has finished reads the hint of exercise 3 to a neighbour. -->
#
# **Exercise 2 (★★).** Write `patches_above(fraction, threshold)`: how many patches have a tumour share larger than the threshold?
# Then see how the number falls as the threshold grows.
#
# <details><summary>Hint</summary>Comparing an array with a number gives an array of True and False, and True counts as 1 in a sum.</details>


# %% tags=["exercise"]
def patches_above(fraction, threshold):
    """How many shares are larger than the threshold? patches_above(np.array([0.1, 0.6]), 0.5) is 1."""
    # Write your code here.


# %% tags=["check"]
from mil_tutorial.exercises import notebook_1 as check

check.patches_above(patches_above)


# %% tags=["solution"]
# @title Solution of exercise 2
def patches_above(fraction, threshold):
    return int((fraction > threshold).sum())


assert check.patches_above.accepts(patches_above)
for threshold in [0.05, 0.25, 0.5, 0.75, 0.95]:
    print(f"threshold {threshold:.2f}: {patches_above(labels.fraction, threshold)} tumour patches")

# %% [markdown]
# **Exercise 3 (★★★).** Write `choose_level(downsamples, side, px)`: the level to read from, so that a patch of `side` level-0
# pixels is still at least `px` pixels wide, and as little as possible is read. `downsamples` are those of the levels, such as [1,
# 2, 4, 8].
#
# <details><summary>Hint</summary>On a level a patch is <code>side / downsample</code> pixels wide. Which levels are fine enough? Take the smallest picture of these. If none is, take level 0.</details>


# %% tags=["exercise"]
def choose_level(downsamples, side, px):
    """The number of the level to read from. choose_level([1, 2, 4], 1024, 512) is 1."""
    # Write your code here.


# %% tags=["check"]
from mil_tutorial.exercises import notebook_1 as check

check.choose_level(choose_level)


# %% tags=["solution"]
# @title Solution of exercise 3
def choose_level(downsamples, side, px):
    fine = [level for level, factor in enumerate(downsamples) if side / factor >= px]
    return max(fine, default=0)


assert check.choose_level.accepts(choose_level)
with open_slide(data.slide_path(wsi_name)) as opened:
    level = choose_level(opened.level_downsamples, patch_size_level0, 224)
    print(f"for pictures of 224 px we read level {level} of {opened.level_count}")

# %% [markdown]
# ## Recap
#
# - A slide is a **pyramid**; coordinates are always level-0 pixels.
# - **µm per pixel** turn patch sizes into level-0 pixels. Ask the file.
# - Tissue is found by colour, the grid keeps what touches it, an encoder turns patches into vectors.
# - A patch's **label** is its tumour share above a threshold; at the border, and for tiny lesions, it is a choice.
#
# | DO | DON'T |
# |---|---|
# | give corners in level-0 pixels, always | mix pixels of two levels |
# | ask the file for µm per pixel and patch size | believe the word "40x" |
# | look at patches before you train on them | trust a tissue mask unseen |
# | write down threshold and rule of your labels | call a slide without a mask normal |
# | say "synthetic" when it is | show a number of synthetic slides as if it were about patients |
#
# ### Quiz
#
# {quiz}

# %% tags=["quiz"]
from mil_tutorial.exercises.quizzes import answer_quiz

answer_quiz(1, "")  # your five letters between the quotes: they are remembered on this computer, and nowhere else

# %% [markdown]
# ### References
#
# - B. Ehteshami Bejnordi et al., *Diagnostic Assessment of Deep Learning Algorithms for Detection of Lymph Node Metastases in
#   Women With Breast Cancer*, JAMA 318 (2017), [doi:10.1001/jama.2017.14585](https://doi.org/10.1001/jama.2017.14585). The
#   CAMELYON16 challenge.
# - G. Litjens et al., *1399 H&E-stained sentinel lymph node sections of breast cancer patients: the CAMELYON dataset*,
#   GigaScience 7 (2018), [doi:10.1093/gigascience/giy065](https://doi.org/10.1093/gigascience/giy065).
# - A. Goode et al., *OpenSlide: A vendor-neutral software foundation for digital pathology*, Journal of Pathology Informatics 4
#   (2013), [doi:10.4103/2153-3539.119005](https://doi.org/10.4103/2153-3539.119005).
# - A. Zhang et al., *Accelerating Data Processing and Benchmarking of AI Models for Pathology*,
#   [arXiv:2502.06750](https://arxiv.org/abs/2502.06750). TRIDENT.
#
# **Next:** notebook 2 puts the patches of a slide into a bag, and bags into batches.

# %% tags=["result"]
print(f"Key result: {wsi_name}: {len(coords)} patches, {(labels.label == 1).sum()} of them tumour")
