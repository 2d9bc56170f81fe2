"""How much a lesson computes."""

import pytest

from mil_tutorial import Budget, ParameterError, open_data
from mil_tutorial.training.budget import MEMORY


def test_small_bags_are_taken_whole():
    budget = open_data().budget
    assert not budget.large and budget.patches is None and budget.batch_size == 4
    assert budget.epochs(20) == 20 and list(budget.seeds(3)) == [0, 1, 2] and budget.first("abc", 1) == ["a", "b", "c"]


def test_large_bags_get_less_and_never_nothing(monkeypatch):
    monkeypatch.setattr("mil_tutorial.data.LARGE", 1000)
    budget = open_data().budget
    assert budget.large and budget.batch_size == 1 and "at most 2000 patches" in str(budget)
    assert [budget.epochs(n) for n in (1, 2, 5, 10, 20, 40)] == [1, 2, 2, 3, 6, 12]
    assert (
        list(budget.seeds(1)) == [0] and list(budget.seeds(5)) == [0, 1] and budget.first(iter("abc"), 2) == ["a", "b"]
    )


@pytest.mark.parametrize("call", [Budget(True).epochs, Budget(False).seeds, lambda n: Budget(True).first([], n)])
def test_nothing_is_no_amount(call):
    with pytest.raises(ParameterError, match="found 0, expected"):
        call(0)


def test_bags_of_real_size_leave_memory_to_the_lesson(monkeypatch):
    assert open_data().bags("train")._features.room > MEMORY
    monkeypatch.setattr("mil_tutorial.data.LARGE", 0)
    bags = open_data().bags("train")
    assert bags._features.room == MEMORY and bags[0]["X"].shape == open_data().bags("train")[0]["X"].shape
