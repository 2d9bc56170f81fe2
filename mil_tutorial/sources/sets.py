"""Published features of CAMELYON16: their addresses, what they are, and under which terms they stand."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mil_tutorial.errors import require

HUB_VARIABLE = "MIL_TUTORIAL_HUB"  # a mirror or a test server in place of the hub

HUB = "https://huggingface.co"

AEM, TORCHMIL = "dazhangyu123/AEM-dataset", "torchmil/Camelyon16_MIL"

PATCHES = "dataset/patches_512"  # torchmil's folder

SLIDES_LICENCE = "CC0-1.0 (slides, masks, annotations, reference)"


@dataclass(frozen=True)
class FeatureSet:
    """Features that somebody published.

    Attributes:
        name: of the set; its features go to `features_<name>`.
        repository, path: the data set on the hub, and the file in it.
        dim: numbers for a patch.
        encoder: what made them, in words.
        licence: of the files, as their card says.
        terms: of the encoder.
        size: bytes of the whole file, about; 0 where nobody has written it down.
        absent: slides that are not in it.
    """

    name: str
    repository: str
    path: str
    dim: int
    encoder: str
    licence: str
    terms: str
    size: int = 0
    absent: frozenset[str] = frozenset()

    @property
    def url(self) -> str:
        """The file's address."""
        return hub_url(self.repository, self.path)

    @property
    def is_archive(self) -> bool:
        """Whether it is a tar.gz, which must be read from its beginning, and not an HDF5 file."""
        return self.path.endswith(".tar.gz")


def hub_url(repository: str, path: str) -> str:
    """The address of a file of a data set on the hub, `$MIL_TUTORIAL_HUB` or huggingface.co."""
    hub = (os.environ.get(HUB_VARIABLE) or HUB).rstrip("/")
    return f"{hub}/datasets/{repository}/resolve/main/{path}"


SETS = {
    s.name: s
    for s in (
        FeatureSet(
            "vits",
            AEM,
            "CAMELYON16/patch_feats_pretrain_medical_ssl.h5",
            384,
            "ViT-S/16, DINO on histology (Lunit)",
            "card: apache-2.0",
            "the encoder is for non-commercial use",
            7_220_000_000,
            frozenset({"normal_027"}),
        ),
        FeatureSet(
            "resnet18",
            AEM,
            "CAMELYON16/patch_feats_pretrain_natural_supervised.h5",
            512,
            "ResNet-18, ImageNet",
            "card: apache-2.0",
            "the encoder is free to use",
            9_580_000_000,
            frozenset({"normal_027"}),
        ),
        FeatureSet(
            "uni",
            TORCHMIL,
            f"{PATCHES}/features/features_UNI.tar.gz",
            1024,
            "UNI, ViT-L/16",
            "card: apache-2.0 (likely)",
            "UNI itself is CC BY-NC-ND 4.0 and given on request only: no commercial use",
        ),
        FeatureSet(
            "resnet50_bt",
            TORCHMIL,
            f"{PATCHES}/features/features_resnet50_bt.tar.gz",
            2048,
            "ResNet-50, Barlow Twins on histology (Lunit)",
            "card: apache-2.0 (likely)",
            "the encoder is for non-commercial use",
            26_700_000_000,
        ),
    )
}

COORDS, PATCH_LABELS = f"{PATCHES}/coords.tar.gz", f"{PATCHES}/patch_labels.tar.gz"


def feature_set(name: str) -> FeatureSet:
    """The set of this name.

    >>> feature_set("vits").dim
    384

    Raises:
        ParameterError: there is none.
    """
    require(name in SETS, "features", name, f"one of {', '.join(SETS)}")
    return SETS[name]
