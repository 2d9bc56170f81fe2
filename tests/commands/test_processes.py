"""`process_map`: results in their order, one error, nothing left of what waits, and no hang when a worker dies."""

import os
import time

import pytest

from mil_tutorial import DataError, ParameterError
from mil_tutorial.commands.processes import process_map


def square(number):
    return number * number, os.getpid()


def wait_and_mark(job):
    number, folder = job
    if number == 0:
        raise DataError("number 0 is wrong")
    time.sleep(0.05)
    (folder / str(number)).touch()


def die(_):
    os._exit(9)


def threads(_):
    import cv2

    return cv2.getNumThreads()


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "chunk"), [(1, 1), (2, 1), (2, 3), (None, 1)])
def test_results_have_the_order_of_the_items(workers, chunk):
    results = process_map(square, range(9), what="Squaring", workers=workers, chunk=chunk, progress=False)
    assert [value for value, _ in results] == [n * n for n in range(9)]
    assert (os.getpid() in {process for _, process in results}) == (workers == 1)


def test_few_items_are_done_here():
    results = process_map(square, range(9), what="Squaring", workers=2, enough=10, progress=False)
    assert {process for _, process in results} == {os.getpid()}
    assert process_map(square, [], what="Squaring", progress=False) == []


@pytest.mark.slow
def test_an_error_gives_up_what_waits(tmp_path):
    jobs = [(n, tmp_path) for n in range(200)]
    with pytest.raises(DataError, match="number 0 is wrong"):
        process_map(wait_and_mark, jobs, what="Marking", workers=2, progress=False)
    assert len(list(tmp_path.iterdir())) < 100


@pytest.mark.slow
def test_a_killed_worker_is_an_error_that_says_what_to_do():
    with pytest.raises(DataError, match="Dying: a worker process was killed, perhaps because the memory was full"):
        process_map(die, range(4), what="Dying", workers=2, progress=False)


@pytest.mark.slow
def test_workers_compute_on_one_thread():
    assert set(process_map(threads, range(4), what="Counting", workers=2, progress=False)) == {1}


@pytest.mark.parametrize("workers", [0, -3, 2.5, True, "2"])
def test_a_wrong_number_of_workers_is_refused(workers):
    with pytest.raises(ParameterError, match=r"workers: found .*, expected a whole number of at least 1"):
        process_map(square, range(4), what="Squaring", workers=workers, progress=False)
