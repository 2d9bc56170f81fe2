"""Patients with several slides stay together: in splits, in folds, in `train`'s validation set."""

import numpy as np
import pandas as pd
import pytest
from small import RUN

from mil_tutorial import DataError, ParameterError, folds_by_patient, open_data, split_bags, split_by_patient

CASES = [f"patient {i // 3}" for i in range(60)]  # three slides each
LABELS = [int(i % 3 == 0 and i // 3 % 2) for i in range(60)]  # of every second patient one slide is tumour


def patients(rows):
    return {CASES[i] for i in rows}


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_on_both_sides_and_both_sides_have_as_many_sick(seed):
    first, second = split_by_patient(LABELS, CASES, fraction=0.25, seed=seed)
    assert sorted(first + second) == list(range(60)) and not patients(first) & patients(second)
    assert len(patients(second)) == 5 and sum(LABELS[i] for i in second) in (2, 3)
    assert split_by_patient(LABELS, CASES, fraction=0.25, seed=seed) == (first, second)


def test_another_seed_draws_other_patients():
    drawn = {tuple(sorted(patients(split_by_patient(LABELS, CASES, fraction=0.25, seed=s)[1]))) for s in range(5)}
    assert len(drawn) == 5


@pytest.mark.parametrize("seed", range(3))
def test_folds_hold_whole_patients_and_each_slide_once(seed):
    folds = folds_by_patient(LABELS, CASES, folds=5, seed=seed)
    assert sorted(np.concatenate([scored for _, scored in folds])) == list(range(60))
    for kept, scored in folds:
        assert not patients(kept) & patients(scored) and len(kept) + len(scored) == 60
        assert sum(LABELS[i] for i in scored) == 2


def test_wrong_cases_are_told():
    with pytest.raises(ParameterError, match="cases: found 1 for 2 slides, expected one for each slide"):
        split_by_patient([0, 1], ["a"], fraction=0.5)
    with pytest.raises(DataError, match="60 bags of 1 patients"):
        split_by_patient(LABELS, ["a"] * 60, fraction=0.5)


def with_cases(tree, cases):
    for name in ("wsi_labels", "train"):
        table = pd.read_csv(tree / f"{name}.csv")
        table.assign(case_id=table["wsi_name"].map(cases).fillna(table["wsi_name"])).to_csv(
            tree / f"{name}.csv", index=False
        )


def test_bags_of_a_data_root_are_split_by_the_column(tree):
    assert (tree / RUN).is_dir()
    with_cases(tree, {"normal_001": "ann", "tumor_001": "ann", "normal_002": "ben", "tumor_002": "ben"})
    bags = open_data(tree).bags("train")
    assert bags.get_bag_cases() == ["ann", "ben", "ann", "ben"]
    with pytest.raises(DataError, match="4 bags of 2 patients"):
        split_bags(bags)
    with_cases(tree, {"normal_001": "1", "tumor_001": "1", "normal_002": "2", "tumor_002": "3"})
    assert open_data(tree).bags("train").subset([2, 0]).get_bag_cases() == ["1", "1"]
