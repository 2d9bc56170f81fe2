"""Step 2, bags: all patches of one slide as a TensorDict, with one label for the whole.

The keys are torchmil's: `X` features, `Y` bag label, `y_inst` patch labels, `adj` which patches touch, `coords` grid
places.

In reading order: `dataset` makes bags from TRIDENT's files, `memory` from plain arrays; `adjacency` says which patches
are neighbours; `collate` makes batches and loaders; `packed` keeps the features of all slides in one mapped file.
"""
