"""mil-tutorial: a hands-on course on Multiple Instance Learning for whole-slide images, and the tools it uses.

Names are loaded when first used, so that work on slides and files does not wait for PyTorch.
"""

import os
import sys
from importlib import import_module
from types import ModuleType

# PyTorch's waiting threads spin by default. With one other busy program on two cores that made an epoch of the course 26
# times slower (7.8 s against 0.3 s); asleep they cost nothing. It must be set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

_HOMES = {
    "files": ("DataError",),
    "geometry": ("Geometry",),
    "data": ("DataRoot", "open_data"),
    "slides": ("open_slide", "read_canvas", "read_overview", "read_patch"),
    "camelyon16": ("camelyon16_slides",),
    "annotations": ("Annotation", "read_asap_xml"),
    "labels": ("PatchLabels", "label_patches", "label_patches_from_annotation"),
    "prepare": ("PrepareOptions", "prepare", "prepare_slide", "segment_tissue"),
    "encoders": ("load_encoder", "pick_device"),
    "packed": ("PackedFeatures", "pack"),
    "bags": ("TridentWSIDataset", "bags_from_arrays", "bags_in_memory", "build_adjacency"),
    "collate": ("collate_fn", "collate_packed", "one_by_one"),
    "abmil": ("ABMIL", "MaxPool", "MeanPool"),
    "training": ("History", "Predictions", "balanced_sampler", "fit", "positive_weight", "predict"),
    "evaluation": (
        "auc_interval",
        "bag_metrics",
        "choose_dice_threshold",
        "choose_threshold",
        "compare_models",
        "fit_temperature",
        "metrics_by_group",
        "patch_metrics",
        "reliability",
        "roc_points",
        "scale_by_temperature",
        "summarize_seeds",
    ),
    "froc": ("Lesions", "froc", "lesions_from_mask", "lesions_from_polygons"),
    "faithfulness": ("deletion_insertion", "patch_scores", "seed_agreement"),
    "localization": (
        "attention_times_n",
        "find_detections",
        "merge_patches",
        "read_detections",
        "scale_min_max",
        "scale_rank",
        "write_detections",
        "write_geojson",
    ),
    "style": ("use_style",),
    "pictures": ("draw_heatmap", "draw_patches", "draw_scores", "show_images", "show_patches"),
    "viewer": ("view_heatmap",),
    "record": ("Record", "read_record"),
    "engine": ("run_tasks",),
    "repeat": ("repeat",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'mil_tutorial' has no attribute {name!r}")
    value = getattr(import_module(f"mil_tutorial.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Package(ModuleType):
    """Importing the module `froc` or `prepare` must not hide the function of that name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
