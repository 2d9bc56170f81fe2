"""FROC: the official definition, by hand and from scratch; slides that never count; input that is refused."""

import warnings

import numpy as np
import pytest
from scipy import ndimage

from mil_tutorial import Lesions, ParameterError, froc
from mil_tutorial.localization.froc import RATES
from mil_tutorial.localization.lesions import lesions_from_annotation


def lesions(*boxes, itc=(), size=64):
    """Lesions as rectangles (row, column, height, width) of level-5 pixels, numbered from 1."""
    labels = np.zeros((size, size), np.int32)
    for number, (r, c, h, w) in enumerate(boxes, 1):
        labels[r : r + h, c : c + w] = number
    return Lesions(labels, frozenset(itc))


def at(probability, row, column):
    return [probability, column * 32 + 16, row * 32 + 16]


BOX = (4, 4, 3, 3)


def test_a_perfect_reader():
    truth = {"a": lesions(BOX), "b": None}
    assert froc({"a": np.array([at(0.9, 5, 5)]), "b": np.array([at(0.1, 9, 9)])}, truth).score == 1.0
    # The official definition leaves out the smallest score; with one score in all, nothing is left.
    assert froc({"a": np.array([at(0.9, 5, 5)])}, truth).score == 0.0


def test_hits_false_alarms_and_normal_slides():
    truth = {"a": lesions(BOX, (20, 20, 5, 5)), "b": None, "c": None, "d": None}
    detections = {"a": np.array([at(0.9, 5, 5), at(0.3, 21, 21)]), "b": np.array([at(0.5, 1, 1)])}
    result = froc(detections, truth)
    # thresholds 0.5 and 0.9 are left (the smallest, 0.3, is dropped), then (0, 0)
    assert result.fp_per_slide.tolist() == [0.25, 0.0, 0.0] and result.sensitivity.tolist() == [0.5, 0.5, 0.0]
    assert result.score == 0.5 and result.left_out == ()


def test_a_lesion_counts_once_with_its_best_detection():
    truth = {"a": lesions(BOX), "b": None}
    normal = np.array([at(0.2, 0, 0)])
    one = froc({"a": np.array([at(0.9, 5, 5)]), "b": normal}, truth)
    three = froc({"a": np.array([at(0.9, 5, 5), at(0.8, 4, 4), at(0.1, 6, 6)]), "b": normal}, truth)
    assert one.score == three.score and np.array_equal(one.fp_per_slide, three.fp_per_slide)


def test_isolated_cells_count_neither_way():
    boxes = BOX, (30, 30, 1, 1)
    hit = {"a": np.array([at(0.9, 5, 5), at(0.8, 30, 30)])}
    result = froc(hit, {"a": lesions(*boxes, itc=[2])})
    assert result.sensitivity.max() == 1.0 and result.fp_per_slide.max() == 0.0
    assert lesions(*boxes, itc=[2]).count == 1


def test_an_unhit_isolated_lesion_adds_a_threshold_of_zero():
    truth = {"a": lesions(BOX, (30, 30, 1, 1), itc=[2])}
    result = froc({"a": np.array([at(0.9, 5, 5), at(0.4, 50, 50)])}, truth)
    assert result.fp_per_slide.tolist() == [1.0, 0.0, 0.0] and result.sensitivity.tolist() == [1.0, 1.0, 0.0]


def official_froc(detections, masks, mpp=0.243):
    """The definition, step by step and slowly, from pixel to score; shares no code with the package."""
    fps, hit_scores, itc_scores, count_all = [], [], [], 0
    for name, mask in masks.items():
        labels, itc = np.zeros((1, 1), int), set()
        if mask is not None and mask.any():
            distance = ndimage.distance_transform_edt(~mask)
            labels, count = ndimage.label(ndimage.binary_fill_holes(distance < 75 / (mpp * 32 * 2)), np.ones((3, 3)))
            for k in range(1, count + 1):
                y, x = np.nonzero(labels == k)
                across = np.mean((x - x.mean()) * (y - y.mean()))
                moments = [[np.mean((x - x.mean()) ** 2), across], [across, np.mean((y - y.mean()) ** 2)]]
                if 4 * np.sqrt(np.linalg.eigvalsh(np.array(moments) + np.eye(2) / 12).max()) < 275 / (mpp * 32):
                    itc.add(k)
            count_all += count - len(itc)
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
    sensitivity = [sum(v >= t for v in hit_scores) / count_all for t in thresholds] + [0.0]
    best = [max(s for s, f in zip(sensitivity, fp, strict=True) if f <= rate) for rate in RATES]
    return np.array(fp), np.array(sensitivity), float(np.mean(best))


def made_slides(seed):
    """Masks of seven slides with blobs of all sizes, some empty, and detections all over them."""
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
        columns = [np.round(rng.random(k), 2), rng.integers(0, 240 * 32, k), rng.integers(0, 200 * 32, k)]
        detections[name] = np.column_stack(columns)
    return masks, detections


@pytest.mark.parametrize("seed", range(6))
def test_froc_equals_the_definition(seed):
    masks, detections = made_slides(seed)
    truth = {n: lesions_from_annotation(m) if m is not None else None for n, m in masks.items()}
    result = froc(detections, truth, n_bootstrap=50, seed=seed)
    fp, sensitivity, score = official_froc(detections, masks)
    assert np.allclose(result.fp_per_slide, fp, atol=1e-9) and np.allclose(result.sensitivity, sensitivity, atol=1e-9)
    assert result.score == pytest.approx(score, abs=1e-9) and result.low <= score <= result.high


TRUTH = {"a": lesions(BOX, (20, 20, 5, 5)), "b": None}
MARKED = {"a": np.array([at(0.9, 5, 5), at(0.3, 40, 40)]), "b": np.array([at(0.5, 1, 1)])}
MORE = {"test_114": np.array([at(0.95, 1, 1), at(0.2, 5, 5)])}


def same(one, other):
    assert np.array_equal(one.fp_per_slide, other.fp_per_slide) and np.array_equal(one.sensitivity, other.sensitivity)
    assert (one.score, one.low, one.high) == (other.score, other.low, other.high)


def test_test_114_never_counts_and_is_named():
    wanted = froc(MARKED, TRUTH, n_bootstrap=20)
    cases = (
        (MARKED | MORE, TRUTH | {"test_114": lesions(BOX)}),
        (MARKED | MORE, TRUTH | {"test_114": None}),
        (MARKED, TRUTH | {"test_114": lesions(BOX)}),
        (MARKED | MORE, TRUTH),  # detections of a slide whose lesions are not there
    )
    for detections, truth in cases:
        with pytest.warns(UserWarning, match="FROC leaves out test_114: not all lesions there are annotated") as caught:
            result = froc(detections, truth, n_bootstrap=20)
        assert len(caught) == 1 and caught[0].filename == __file__
        same(result, wanted)
        assert result.left_out == ("test_114",)


def test_slides_of_one_s_own_are_left_out():
    with pytest.warns(UserWarning, match="leaves out b, c:"):
        result = froc(MARKED | {"c": MARKED["a"]}, TRUTH, leave_out=["c", "b", "not here"])
    assert result.left_out == ("b", "c")
    same(result, froc({"a": MARKED["a"]}, {"a": TRUTH["a"]}))


def test_nothing_is_left_out_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert froc(MARKED, TRUTH).left_out == ()
        assert froc(MARKED | MORE, TRUTH | {"test_114": None}, leave_out=()).left_out == ()


@pytest.mark.parametrize(
    "detections,truth,message",
    [
        ({}, {"a": None}, "lesions: found no slide with a lesion larger than"),
        ({}, {"a": lesions((4, 4, 1, 1), itc=[1])}, "lesions: found no slide with a lesion larger than"),
        ({"x": np.empty((0, 3))}, {"a": None}, "detections: found detections on x, which is not in lesions"),
        ({}, {}, "lesions: found no slides"),
        ({}, {"a": np.ones((9, 9))}, "lesions: found ndarray for slide a, expected Lesions, or None"),
        ([], {"a": None}, "detections: found list, expected a dictionary"),
        ({}, [None], "lesions: found list"),
    ],
)
def test_what_has_no_answer_is_refused(detections, truth, message):
    with pytest.raises(ParameterError, match=f"^{message}"):
        froc(detections, truth)


@pytest.mark.parametrize(
    "bad,message",
    [
        ([[-0.1, 5, 5]], "found -0.1 on slide a"),
        ([[0.5, 5]], r"found shape \(1, 2\).*on slide a"),
        ([0.5, 5, 5], r"found shape \(3,\).*on slide a"),
        ([[np.nan, 5, 5]], "found 1 values that are NaN or infinite.*on slide a"),
        ([[0.5, np.inf, 5]], "found 1 values.*on slide a"),
        ([["0.5", "5", "5"]], "found .*expected numbers.*on slide a"),
        ("detections", "found 'detections'.*on slide a"),
        (None, "found None.*on slide a"),
    ],
)
def test_bad_detections_are_refused(bad, message):
    with pytest.raises(ParameterError, match=f"^detections: {message}"):
        froc({"a": bad}, TRUTH)


@pytest.mark.parametrize(
    "option", [{"n_bootstrap": -1}, {"n_bootstrap": 0.5}, {"seed": -1}, {"leave_out": "test_114"}, {"leave_out": 7}]
)
def test_bad_options_are_refused(option):
    (name,) = option
    with pytest.raises(ParameterError, match=f"^{name}: found"):
        froc(MARKED, TRUTH, **option)
