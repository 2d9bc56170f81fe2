"""Intervals that keep their word, metrics that equal scikit-learn's, scores that add up, curves that fall."""

import json

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.stats import norm
from sklearn import metrics

from mil_tutorial import (
    ABMIL,
    Annotation,
    MeanPool,
    auc_interval,
    bag_metrics,
    choose_dice_threshold,
    compare_models,
    deletion_insertion,
    fit_temperature,
    froc,
    lesions_from_polygons,
    merge_patches,
    metrics_by_group,
    patch_metrics,
    patch_scores,
    reliability,
    scale_by_temperature,
    seed_agreement,
    summarize_seeds,
    write_geojson,
)
from mil_tutorial.evaluation.metrics import as_json
from mil_tutorial.localization.froc import RATES
from mil_tutorial.localization.lesions import lesions_from_annotation


def scores(n=60, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    y[:2] = 0, 1
    p = np.clip(0.5 + 0.25 * (2 * y - 1) * rng.random(n) + rng.normal(0, 0.2, n), 0, 1)
    return y, np.round(p, 1) if ties else p


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_values_are_scikit_learn_s(seed, ties):
    y, p = scores(seed=seed, ties=ties)
    found = {k: e.value for k, e in bag_metrics(y, p, threshold=0.45, n_bootstrap=0).items()}
    said = p > 0.45
    fpr, tpr, _ = metrics.roc_curve(y, p, drop_intermediate=False)
    wanted = {
        "accuracy": metrics.accuracy_score(y, said),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, said),
        "f1": metrics.f1_score(y, said),
        "sensitivity": metrics.recall_score(y, said),
        "specificity": metrics.recall_score(y, said, pos_label=0),
        "auc": metrics.roc_auc_score(y, p),
        "average_precision": metrics.average_precision_score(y, p),
        "brier": metrics.brier_score_loss(y, p),
        "sensitivity_at_0.9_specificity": tpr[fpr <= 0.1 + 1e-9].max(),
    }
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    bins = np.minimum((p * 10).astype(int), 9)
    error = sum(abs(p[bins == b].mean() - y[bins == b].mean()) * np.mean(bins == b) for b in np.unique(bins))
    assert found["calibration_error"] == pytest.approx(error)


def test_intervals_hold_the_value_and_repeat():
    y, p = scores()
    first, second = bag_metrics(y, p), bag_metrics(y, p)
    assert first == second
    assert all(e.low <= e.value <= e.high for k, e in first.items() if k != "calibration_error")


def test_auc_intervals_cover_the_truth():
    """500 made-up test sets of 25 normal and 19 tumour slides, as ours; the truth is known."""
    truth, hits = 0.88, 0
    for seed in range(500):
        rng = np.random.default_rng(10_000 + seed)
        y = np.repeat([0, 1], [25, 19])
        found = auc_interval(y, rng.normal(size=44) + y * norm.ppf(truth) * np.sqrt(2))
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / 500 <= 0.98, hits


@pytest.mark.parametrize("p,auc", [([0.1, 0.2, 0.8, 0.9], 1.0), ([0.9, 0.8, 0.2, 0.1], 0.0), ([0.5] * 4, 0.5)])
def test_auc_intervals_at_the_edge(p, auc):
    found = auc_interval([0, 0, 1, 1], p)
    assert found.value == auc and 0 <= found.low <= auc <= found.high <= 1 and found.high - found.low > 0.2


def test_one_class_and_nonsense():
    one = bag_metrics([1, 1, 1], [0.2, 0.8, 0.9])
    assert (
        np.isnan(one["auc"].value)
        and np.isnan(one["specificity"].value)
        and one["sensitivity"].value == pytest.approx(2 / 3)
    )
    assert as_json(one)["auc"]["value"] is None and json.dumps(as_json(one), allow_nan=False)
    for bad in (([0, 1], [0.1, np.nan]), ([0, 2], [0.1, 0.2]), ([], []), ([0, 1], [0.1])):
        with pytest.raises(ValueError):
            bag_metrics(*bad)
    with pytest.raises(ValueError, match="both classes"):
        auc_interval([1, 1], [0.1, 0.2])


def test_groups_are_set_against_common_normal_slides():
    y, p = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.4, 0.9, 0.3, 0.2])
    found = metrics_by_group(y, p, ["", "", "macro", "micro", "micro"])
    assert list(found) == ["macro", "micro"]
    assert found["macro"]["auc"].value == 1.0 and found["micro"]["sensitivity"].value == 0.0


def test_paired_comparison():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 60)
    good, bad = y + rng.normal(0, 0.7, 120), rng.normal(size=120)
    apart = compare_models(y, good, bad, 0.5, 0.0)
    assert apart.difference.low > 0.2 and apart.p_auc < 0.01 and apart.p_calls < 0.01
    same = compare_models(y, good, good)
    assert same.difference.value == 0 and same.p_auc == 1 and same.p_calls == 1
    p = [compare_models(y, *np.random.default_rng(s).normal(y * 0.8, 1, (2, 120)), n=200).p_auc for s in range(60)]
    assert np.mean(np.array(p) < 0.05) < 0.15, "two models alike must seldom differ"


def test_seeds_apart_from_sampling():
    runs = [bag_metrics(*scores(seed=s), n_bootstrap=100)["auc"] for s in range(4)]
    found = summarize_seeds(runs)
    assert found.mean == pytest.approx(np.mean([r.value for r in runs]))
    assert found.spread == pytest.approx(np.std([r.value for r in runs], ddof=1))
    assert found.sampling[0] == pytest.approx(np.mean([r.low for r in runs])) and "4 seeds" in str(found)


def test_temperature_finds_what_was_done():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 4000)
    y = (rng.random(4000) < 1 / (1 + np.exp(-z))).astype(int)
    too_sure = 1 / (1 + np.exp(-3 * z))
    t = fit_temperature(y, too_sure)
    assert t == pytest.approx(3, rel=0.1)
    right = scale_by_temperature(too_sure, t)
    before, after = (bag_metrics(y, p, n_bootstrap=0)["calibration_error"].value for p in (too_sure, right))
    assert after < before / 3
    assert (np.diff(right[np.argsort(too_sure)]) >= -1e-9).all(), "the order must stay"
    bins = reliability(y, right)
    assert bins["n"].sum() == 4000 and np.abs(bins["prob"] - bins["frequency"]).max() < 0.1


def test_patch_metrics_and_dice():
    y, s = np.array([1, 1, 0, 0, -1]), np.array([0.9, 0.4, 0.5, 0.1, 9.0])
    found = patch_metrics(y, s, threshold=0.45)
    assert found["auc"] == 0.75 and found["pointing"] == 1.0 and found["n"] == 4
    assert found["dice"] == pytest.approx(2 * 1 / (2 + 2))
    assert patch_metrics([1, 0], [0.5, 0.5])["pointing"] == 0.5
    nothing = patch_metrics([0, 0], [0.1, 0.2], threshold=0.5)
    assert np.isnan(nothing["auc"]) and np.isnan(nothing["pointing"]) and nothing["dice"] == 1.0
    t = choose_dice_threshold([(y, s), (np.array([0, 0]), np.array([0.2, 0.3]))])
    assert patch_metrics(y, s, t)["dice"] >= 0.8
    with pytest.raises(ValueError, match="no slide has a tumour patch"):
        choose_dice_threshold([([0, 0], [0.1, 0.2])])


def test_contributions_add_up_to_the_logit():
    torch.manual_seed(0)
    X = torch.randn(7, 5)
    for model in (ABMIL(5, gated=True), ABMIL(5, feat_ext=torch.nn.Linear(5, 3)), MeanPool(5)):
        found = patch_scores(model, X)
        logit = float(model(X[None]).detach())
        if isinstance(model, ABMIL):
            assert found["logit contribution"].sum() + model.classifier.bias.item() == pytest.approx(logit, abs=1e-5)
            assert found["attention x n"].mean() == pytest.approx(1)
        else:
            assert "logit contribution" not in found
        assert all(v.shape == (7,) and np.isfinite(v).all() for v in found.values())
    linear = MeanPool(5)
    with torch.no_grad():
        linear.classifier.bias.zero_()
    assert patch_scores(linear, X)["gradient x input"].sum() == pytest.approx(float(linear(X[None]).detach()), abs=1e-5)


def test_a_true_score_beats_a_random_order():
    class Count(torch.nn.Module):
        """The logit is the sum of the first feature."""

        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.tensor(-2.0))

        def forward(self, X):
            return X[:, :, 0].sum(1) + self.bias

    X = torch.zeros(40, 3)
    X[:6, 0] = 1.0
    true = deletion_insertion(Count(), X, X[:, 0].numpy())
    assert true["deletion"].area < true["random deletion"].area < 0.99
    assert true["insertion"].area > true["random insertion"].area
    wrong = deletion_insertion(Count(), X, -X[:, 0].numpy())
    assert wrong["deletion"].area > true["random deletion"].area
    assert true["deletion"].share[0] == 0 and true["insertion"].share[-1] == 1
    alone = deletion_insertion(Count(), X[:1], np.array([1.0]))
    assert np.isfinite(alone["deletion"].area)
    with pytest.raises(ValueError, match="not finite"):
        deletion_insertion(Count(), X, np.full(40, np.nan))


def test_agreement_of_seeds():
    a = np.arange(10.0)
    assert seed_agreement([a, a * 2 + 1]) == pytest.approx(1) and seed_agreement([a, -a]) == pytest.approx(-1)
    assert np.isnan(seed_agreement([a, np.ones(10)]))
    with pytest.raises(ValueError, match="at least two runs"):
        seed_agreement([a])


def official_froc(detections, masks, mpp=0.243):
    """The definition, step by step and slowly, from pixel to score; shares no code with the package."""
    fps, hit_scores, itc_scores, lesions = [], [], [], 0
    for name, mask in masks.items():
        labels, itc = np.zeros((1, 1), int), set()
        if mask is not None and mask.any():
            distance = ndimage.distance_transform_edt(~mask)
            labels, count = ndimage.label(ndimage.binary_fill_holes(distance < 75 / (mpp * 32 * 2)), np.ones((3, 3)))
            for k in range(1, count + 1):
                y, x = np.nonzero(labels == k)
                c = np.array([[np.mean((x - x.mean()) ** 2), np.mean((x - x.mean()) * (y - y.mean()))],
                              [np.mean((x - x.mean()) * (y - y.mean())), np.mean((y - y.mean()) ** 2)]])  # fmt: skip
                if 4 * np.sqrt(np.linalg.eigvalsh(c + np.eye(2) / 12).max()) < 275 / (mpp * 32):
                    itc.add(k)
            lesions += count - len(itc)
        best = {k: 0.0 for k in range(1, labels.max() + 1)}
        for p, x, y in detections.get(name, []):
            r, c = int(y / 32), int(x / 32)
            k = labels[r, c] if r < labels.shape[0] and c < labels.shape[1] else 0
            if k:
                best[k] = max(best[k], p)
            else:
                fps.append(p)
        for k, p in best.items():
            (itc_scores if k in itc else hit_scores).append(p)
    thresholds = sorted(set(fps + hit_scores + itc_scores))[1:]
    fp = [sum(v >= t for v in fps) / len(masks) for t in thresholds] + [0.0]
    sensitivity = [sum(v >= t for v in hit_scores) / lesions for t in thresholds] + [0.0]
    best = [max(s for s, f in zip(sensitivity, fp, strict=True) if f <= rate) for rate in RATES]
    return np.array(fp), np.array(sensitivity), float(np.mean(best))


@pytest.mark.parametrize("seed", range(6))
def test_froc_equals_the_definition(seed):
    rng = np.random.default_rng(seed)
    masks, detections = {}, {}
    for i in range(7):
        name, mask = f"s{i}", np.zeros((200, 240), bool)
        for _ in range(rng.integers(0, 5) if i else 3):
            x, y, r = rng.integers(10, 190), rng.integers(10, 190), rng.choice([3, 8, 25, 40] if i else [40])
            yy, xx = np.ogrid[:200, :240]
            mask |= (xx - x) ** 2 + ((yy - y) * rng.uniform(0.6, 1.6)) ** 2 < r * r
        masks[name] = mask if mask.any() else None
        k = rng.integers(0, 30)
        detections[name] = np.column_stack(
            [np.round(rng.random(k), 2), rng.integers(0, 240 * 32, k), rng.integers(0, 200 * 32, k)]
        )
    lesions = {n: lesions_from_annotation(m) if m is not None else None for n, m in masks.items()}
    found = froc(detections, lesions, n_bootstrap=50, seed=seed)
    fp, sensitivity, score = official_froc(detections, masks)
    assert np.allclose(found.fp_per_slide, fp, atol=1e-9) and np.allclose(found.sensitivity, sensitivity, atol=1e-9)
    assert found.score == pytest.approx(score, abs=1e-9) and found.low <= score <= found.high


def test_froc_from_polygons_is_froc_from_the_mask(data, tumor_slide):
    from mil_tutorial import lesions_from_mask, open_slide, read_asap_xml

    with open_slide(data.mask_path(tumor_slide)) as mask:
        width, height = mask.dimensions
    drawn = lesions_from_polygons(read_asap_xml(data.annotation_path(tumor_slide)), width, height)
    masked = lesions_from_mask(data.mask_path(tumor_slide))
    assert drawn.count == masked.count and drawn.labels.shape == masked.labels.shape
    a, b = drawn.labels > 0, masked.labels > 0
    assert (a & b).sum() / (a | b).sum() > 0.9
    assert lesions_from_polygons(Annotation(), 1000, 1000) is None


@pytest.mark.parametrize("bad", [np.array([[-0.1, 5, 5]]), np.array([[0.5, 5]]), np.array([[np.nan, 5, 5]])])
def test_froc_refuses_bad_detections(bad):
    mask = np.zeros((100, 100), bool)
    mask[10:60, 10:60] = True
    with pytest.raises(ValueError, match="slide a"):
        froc({"a": bad}, {"a": lesions_from_annotation(mask)})


def test_merged_regions_and_their_area(tmp_path):
    coords = np.array(
        [[0, 0], [512, 0], [0, 1024], [5000, 5000], [9000, 9000]]
    )  # the first two overlap, the third touches
    score = np.array([0.9, 0.8, 0.7, 0.95, 0.1])
    regions = merge_patches(coords, 1024, score, 0.5, mpp=0.25)
    assert len(regions) == 2
    (alone, a), (joined, b) = regions
    assert a["patches"] == 1 and a["largest score"] == 0.95 and a["area mm2"] == pytest.approx(0.256**2)
    assert b["patches"] == 3 and b["mean score"] == pytest.approx(0.8) and joined.area == 1536 * 1024 + 1024**2
    assert merge_patches(coords, 1024, score, 2.0) == []
    path = tmp_path / 'a "b" <script>é.geojson'
    write_geojson(path, coords, 1024, {"score": score}, labels=[1, 0, -1, 1, 0], regions=("score", 0.5), mpp=0.25)
    found = json.loads(path.read_text(encoding="utf-8"))["features"]
    kinds = [f["properties"]["objectType"] for f in found]
    assert kinds == ["annotation"] * 2 + ["tile"] * 5
    for f in found:
        ring = np.array(f["geometry"]["coordinates"][0])
        assert f["geometry"]["type"] == "Polygon" and (ring[0] == ring[-1]).all() and len(ring) >= 5
        assert all(isinstance(v, float) for v in f["properties"]["measurements"].values())
    assert found[0]["properties"]["measurements"]["area mm2"] == pytest.approx(0.256**2)
    with pytest.raises(ValueError, match="expected one of 1, 0, -1"):
        write_geojson(path, coords, 1024, {"score": score}, labels=[7] * 5)
    with pytest.raises(ValueError, match="all must be finite"):
        write_geojson(path, coords, 1024, {"score": score * np.nan})


def test_all_right_still_has_an_interval():
    found = bag_metrics([0] * 10 + [1] * 8, [0.1] * 10 + [0.9] * 8)
    for name in ("accuracy", "sensitivity", "specificity"):
        assert found[name].value == found[name].high == 1 and 0.5 < found[name].low < 0.9
