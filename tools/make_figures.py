"""Draw the picture of the README: a slide, its patches, where the tumour is and where the model looked."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.data import DataLoader

from mil_tutorial import (
    ABMIL,
    TridentWSIDataset,
    attention_times_n,
    collate_fn,
    draw_heatmap,
    fit,
    open_data,
    open_slide,
    predict,
    read_canvas,
    read_overview,
    show_images,
    use_style,
)

TARGET = Path(__file__).resolve().parent.parent / "site" / "_static" / "overview.png"


def main() -> None:
    """Train ABMIL with one label for each slide, and draw its attention on a test slide that it has not seen."""
    use_style()
    data = open_data()
    keys = ["X", "Y", "y_inst"]
    train, test = (
        TridentWSIDataset(
            data.trident_dir,
            data.root / "wsi_labels.csv",
            data.encoders[0],
            wsi_names=data.split(s)["wsi_name"],
            bag_keys=keys,
        )
        for s in ("train", "test")
    )
    torch.manual_seed(0)
    model = ABMIL(train[0]["X"].shape[1])
    loader = DataLoader(
        train, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0), collate_fn=collate_fn
    )
    fit(model, loader, loader, epochs=20, lr=5e-4)
    found = predict(model, DataLoader(test, batch_size=4, collate_fn=collate_fn))
    tumor = [(test[i]["y_inst"] == 1).sum().item() for i in range(len(test))]
    i = int(np.argmax(np.where(np.array(tumor) < 12, tumor, 0)))  # a lesion that one has to look for
    name, patches = found.names[i], test.read_patches(found.names[i])
    side = patches.geometry.patch_size_level0
    with open_slide(data.slide_path(name)) as slide:
        overview = read_overview(slide, side / 50)
        canvas, rows, columns = read_canvas(slide, patches.coords, side)
    truth = draw_heatmap(canvas, (test[i]["y_inst"].numpy() == 1) * 0.75, rows, columns, 50, alpha=0.65, cmap="Oranges")
    share = attention_times_n(found.attention[i])
    attention = draw_heatmap(canvas, share / share.max(), rows, columns, 50, alpha=0.65, cmap="Oranges")
    axes = show_images(
        [overview, truth, attention], ["A slide (synthetic)", "Where the tumour is", "Where the model looked"], width=15
    )
    factor = side / 50
    for x, y in patches.coords / factor:
        axes[0].add_patch(plt.Rectangle((x, y), 50, 50, fill=False, ec="#333333", lw=0.5))
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(TARGET, dpi=90)
    print(f"{name}: {tumor[i]} tumour patches, probability {found.prob[i]:.2f}; {TARGET}")


if __name__ == "__main__":
    main()
