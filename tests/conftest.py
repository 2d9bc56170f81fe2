"""Shared by all tests: the synthetic data root, one tumour and one normal slide, and real files where there are some."""

import os
from pathlib import Path

import pytest

import mil_tutorial  # noqa: F401  (before torch: it sets how torch's threads wait)

HERE = Path(__file__).resolve().parent.parent
os.environ.setdefault("MIL_TUTORIAL_CACHE", str(HERE / "build" / "cache"))
os.environ.pop("MIL_TUTORIAL_DATA", None)

TUMOR = "tumor_003"


@pytest.fixture(scope="session")
def repo():
    return HERE


@pytest.fixture(scope="session")
def data():
    from mil_tutorial import open_data

    return open_data()


@pytest.fixture(scope="session")
def tumor_slide(data):
    """Name of a tumour slide that is drawn."""
    data.slide_path(TUMOR)
    return TUMOR


@pytest.fixture(scope="session")
def real():
    """Folder of a few real files; not part of the repository."""
    folder = Path(os.environ.get("MIL_TUTORIAL_REAL", HERE.parent / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip("no real files here; name their folder in MIL_TUTORIAL_REAL")
    return folder


@pytest.fixture
def tree(data, tmp_path):
    """A small data root of one's own: four training and two test slides of the fixture, features only."""
    import shutil

    import pandas as pd

    names = {"train": ["normal_001", "normal_002", "tumor_001", "tumor_002"], "test": ["test_001", "test_005"]}
    labels = data.labels.set_index("wsi_name")["wsi_label"]
    run = tmp_path / "root" / "trident_processed" / "20x_512px_0px_overlap"
    for name in names["train"] + names["test"]:
        for part in ("patches", "features_efficientnet_lite0", "patch_labels"):
            for file in (data.trident_dir / part).glob(f"{name}*.h5"):
                (run / part).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, run / part)
    root = tmp_path / "root"
    for file, chosen in {**names, "wsi_labels": names["train"] + names["test"]}.items():
        table = pd.DataFrame({"wsi_name": chosen, "wsi_label": labels[chosen].values})
        table.to_csv(root / f"{file}.csv", index=False)
    return root
