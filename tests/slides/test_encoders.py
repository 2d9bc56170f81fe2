"""Patch encoders: the embedded one, one of timm, and names that are none."""

import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mil_tutorial import DataError, ParameterError, load_encoder
from mil_tutorial.slides.encoders import Lite0, PatchEncoder


@pytest.fixture(scope="module")
def encoder():
    return load_encoder()


@pytest.mark.slow
def test_folding_batch_norm_changes_nothing(encoder):
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    plain = PatchEncoder("plain", 224, 1280, Lite0().eval(), encoder.mean, encoder.std)
    assert np.allclose(plain.encode(images), encoder.encode(images), atol=1e-4)


@pytest.mark.parametrize(
    "patches",
    [
        np.zeros((2, 224, 224), np.uint8),
        np.zeros((2, 224, 224, 4), np.uint8),
        np.zeros((2, 224, 224, 3)),
        np.zeros((224, 224, 3), np.uint8),
        np.zeros((2, 256, 256, 3), np.uint8),
        "patches",
    ],
)
def test_what_is_no_batch_of_rgb_is_refused(encoder, patches):
    with pytest.raises(ParameterError, match=r"patches: found shape .*expected RGB images, uint8 of shape \(B, 224"):
        encoder.encode(patches)


@pytest.mark.parametrize("name", ["conch_v15", "", None, 3, "Timm:x"])
def test_names_that_are_none_are_refused(name):
    with pytest.raises(ParameterError, match=r"name: found .*expected efficientnet_lite0 or timm:<model>") as error:
        load_encoder(name)
    assert "--" not in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value), "it travels between processes"


class Small(torch.nn.Module):
    num_features = 3

    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture
def timm(monkeypatch):
    """timm itself needs torchvision; this takes its place and knows one model."""

    def create_model(name, *, pretrained, num_classes):
        if (name, pretrained, num_classes) != ("org/net", True, 0):
            raise RuntimeError(f"Unknown model ({name})")
        return Small()

    config = {"input_size": (3, 64, 64), "mean": (0, 0, 0), "std": (1, 1, 1)}
    fake = SimpleNamespace(
        create_model=create_model, data=SimpleNamespace(resolve_model_data_config=lambda network: config)
    )
    monkeypatch.setitem(sys.modules, "timm", fake)


def test_a_timm_model_by_name(timm):
    made = load_encoder("timm:org/net")
    assert (made.name, made.px, made.dim) == ("timm_org_net", 64, 3)
    assert np.allclose(made.encode(np.full((2, 64, 64, 3), 255, np.uint8)), 1)


def test_a_timm_model_that_there_is_not(timm):
    with pytest.raises(DataError, match=r"timm:none: timm cannot load this model \(Unknown model \(none\)\)"):
        load_encoder("timm:none")


def test_timm_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DataError, match=r"timm is not installed. Install it: pip install 'mil-tutorial\[timm\]'"):
        load_encoder("timm:org/net")
