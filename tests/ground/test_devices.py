"""Devices that are here and those that are not; threads that are given back."""

import pytest
import torch

from mil_tutorial import ParameterError, pick_device
from mil_tutorial.devices import threads


def test_the_device_asked_for():
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")
    assert torch.zeros(1, device=pick_device()).item() == 0


@pytest.mark.parametrize("device", ["gpu", "", "cpu:x", "cuda:99", "meta", [], 1.5])
def test_devices_that_are_not_here(device):
    with pytest.raises(ParameterError, match=r"^device: found .*, expected a device that works here"):
        pick_device(device)


def test_threads_are_given_back_after_an_error_too():
    before = torch.get_num_threads()
    for n in (1, 2, before):
        with threads(n):
            assert torch.get_num_threads() == n
            with threads(1):
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == n
        assert torch.get_num_threads() == before
    with pytest.raises(KeyError), threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("n", [0, -1, 2.5, "2", None, True])
def test_numbers_of_threads_that_cannot_be(n):
    with pytest.raises(ParameterError, match=r"^n: found"), threads(n):
        pass
