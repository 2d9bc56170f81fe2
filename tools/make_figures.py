"""Draw the image of the README: a slide, its patches, where the tumour is and where the model looked."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch

from mil_tutorial import (
    ABMIL,
    attention_times_n,
    draw_heatmap,
    fit,
    make_loader,
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
    train, test = (data.bags(split, keys=["X", "Y", "y_inst"]) for split in ("train", "test"))
    torch.manual_seed(0)
    model = ABMIL(train[0]["X"].shape[1])
    loader = make_loader(train, seed=0)
    fit(model, loader, loader, epochs=20, lr=5e-4)
    predicted = predict(model, make_loader(test))
    tumor = [(test[i]["y_inst"] == 1).sum().item() for i in range(len(test))]
    i = int(np.argmax(np.where(np.array(tumor) < 12, tumor, 0)))  # a lesion that one has to look for
    name, patches = predicted.names[i], test.read_patches(predicted.names[i])
    side = patches.geometry.patch_size_level0
    with open_slide(data.slide_path(name)) as slide:
        overview = read_overview(slide, side / 50)
        canvas, rows, columns = read_canvas(slide, patches.coords, side)
    truth = draw_heatmap(canvas, (test[i]["y_inst"].numpy() == 1) * 0.75, rows, columns, 50, alpha=0.65, cmap="Oranges")
    looked = attention_times_n(predicted.attention[i])
    attention = draw_heatmap(canvas, looked / looked.max(), rows, columns, 50, alpha=0.65, cmap="Oranges")
    axes = show_images(
        [overview, truth, attention], ["A slide (synthetic)", "Where the tumour is", "Where the model looked"], width=15
    )
    factor = side / 50
    for x, y in patches.coords / factor:
        axes[0].add_patch(plt.Rectangle((x, y), 50, 50, fill=False, ec="#333333", lw=0.5))
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(TARGET, dpi=90)
    print(f"{name}: {tumor[i]} tumour patches, probability {predicted.prob[i]:.2f}; {TARGET}")


if __name__ == "__main__":
    main()
