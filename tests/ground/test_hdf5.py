"""HDF5 files: whole or absent, compared with their checksums, read in runs and in blocks."""

import h5py
import numpy as np
import pytest

from mil_tutorial import DataError
from mil_tutorial.hdf5 import DamagedFile, compare_values, count_bad, create_h5, open_h5, read_blocks, read_rows


def values(n=500, seed=0):
    return np.random.default_rng(seed).random((n, 7)).astype(np.float32)


def flip_bit(path, key, value=100):
    """Change one bit of one value of a dataset that is one block of the file."""
    with h5py.File(path) as file:
        place = file[key].id.get_offset() + value * file[key].dtype.itemsize
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.fixture
def path(tmp_path):
    with create_h5(tmp_path / "a.h5") as file:
        file["x"] = values()
    return tmp_path / "a.h5"


def test_an_error_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError, match="no more"), create_h5(tmp_path / "b.h5") as file:
        file["x"] = values()
        raise RuntimeError("no more")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("read", [read_rows, compare_values, lambda dataset: list(read_blocks(dataset, size=100))])
def test_one_flipped_bit_is_found_whichever_way_it_is_read(path, read):
    with open_h5(path) as file:
        read(file["x"])
    flip_bit(path, "x")
    with pytest.raises(DamagedFile, match=r"a\.h5.*values of 'x' do not match"), open_h5(path) as file:
        read(file["x"])


def test_values_without_a_checksum_are_taken_as_they_are(tmp_path):
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        file["x"] = values()
    flip_bit(path, "x")
    with open_h5(path) as file:
        compare_values(file["x"])
        assert (read_rows(file["x"]) != values()).sum() == 1


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_file_cut_short_is_damaged(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    with pytest.raises(DamagedFile, match=r"a\.h5"), open_h5(path) as file:
        read_rows(file["x"])


def test_a_file_that_is_absent_or_locked_is_not_called_damaged(tmp_path, path):
    with pytest.raises(DataError, match="no such file") as error, open_h5(tmp_path / "none.h5"):
        pass
    assert not isinstance(error.value, DamagedFile)
    for trouble, message in (
        (BlockingIOError(11, "locked"), "another program"),
        (PermissionError(13, "no"), "not allowed"),
        (OSError(5, "Input/output error"), "Check the disk"),
    ):
        with pytest.raises(DataError, match=message) as error, open_h5(path):
            raise trouble
        assert not isinstance(error.value, DamagedFile), trouble


@pytest.mark.parametrize("kind", ["one block", "rows", "compressed", "few rows", "empty", "three dimensions"])
@pytest.mark.parametrize("size", [1, 1000, 1 << 24])
def test_blocks_are_the_rows(tmp_path, kind, size):
    x = values(5 if kind == "few rows" else 0 if kind == "empty" else 500)
    x = x[None] if kind == "three dimensions" else x
    how = {"rows": {"chunks": (1, 7)}, "compressed": {"chunks": (64, 7), "compression": "gzip"}}.get(kind, {})
    with create_h5(tmp_path / "a.h5") as file:
        file.create_dataset("x", data=x, **how)
    with open_h5(tmp_path / "a.h5") as file:
        blocks = [rows.copy() for rows in read_blocks(file["x"], size=size)]
        assert np.array_equal(np.concatenate([x[:0], *blocks]), x) and np.array_equal(read_rows(file["x"]), x)
    if kind in ("one block", "rows") and size == 1000:
        assert max(block.nbytes for block in blocks) <= size


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bad_values_are_counted(dtype):
    x = values().astype(dtype)
    assert count_bad(x) == 0
    x[3, 4], x[5, 6], x[7, 1] = np.nan, np.inf, -np.inf
    assert count_bad(x) == count_bad(x[:, ::-1]) == 3


def test_large_values_are_not_bad():
    assert count_bad(np.full((10, 3), 1e30, np.float32)) == 0, "their squares are infinite, they are not"
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    assert count_bad(every) == np.count_nonzero(~np.isfinite(every)) == 2048, "of all that 16 bits can say"
