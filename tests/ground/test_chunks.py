"""Places of chunks read from the file's index are those that h5py tells one by one."""

import h5py
import numpy as np
import pytest

from mil_tutorial import chunks as module
from mil_tutorial import hdf5
from mil_tutorial.chunks import chunk_offsets


def write(path, *, n=700, chunk=(1, 5), order=None, libver=None, **options):
    rows = np.random.default_rng(0).standard_normal((n, 5)).astype(np.float32)
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("other", data=np.arange(9))
        dataset = file.create_dataset("features", rows.shape, "f4", chunks=chunk, **options)
        dataset.attrs.update({f"attribute {i}": "x" * 50 for i in range(12)})  # the header goes on elsewhere
        for i in range(0, n, 50) if order is None else order:
            dataset[i : i + 50] = rows[i : i + 50]
            file[f"between {i}"] = i
    return rows


CASES = {
    "one row": {},
    "several rows, the last chunk not full": {"n": 701, "chunk": (8, 5)},
    "in another order": {"order": list(range(650, -1, -50)), "maxshape": (None, 5)},
    "a chunk is missing": {"order": list(range(0, 650, 50))},
    "nothing was written": {"order": []},
}


@pytest.mark.parametrize("case", CASES)
def test_the_places_are_those_that_h5py_tells(tmp_path, case):
    rows = write(tmp_path / "a.h5", **CASES[case])
    with h5py.File(tmp_path / "a.h5") as file:
        dataset = file["features"]
        offsets = chunk_offsets(dataset)
        assert offsets is not None and np.array_equal(offsets, hdf5._ask_h5py(dataset))
        if "missing" not in case and "nothing" not in case:
            assert np.array_equal(hdf5.read_rows(dataset), rows)
        assert np.array_equal(hdf5.read_rows(dataset), dataset[...])


def test_what_is_kept_in_another_way_is_left_to_h5py(tmp_path):
    rows = write(tmp_path / "new.h5", libver="latest")
    wide = write(tmp_path / "wide.h5", chunk=(1, 2))
    with h5py.File(tmp_path / "new.h5") as file:
        assert chunk_offsets(file["features"]) is None
    for name, expected in (("new", rows), ("wide", wide)):
        with h5py.File(tmp_path / f"{name}.h5") as file:
            assert np.array_equal(hdf5.read_rows(file["features"]), expected)


@pytest.mark.slow
def test_a_damaged_index_is_noticed(tmp_path):
    """HDF5 itself may search such an index without end, so it is not asked."""
    path = tmp_path / "a.h5"
    write(path)
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    with h5py.File(path) as file:
        right = chunk_offsets(file["features"])
    index = [i for i in range(len(content)) if content[i : i + 6] == b"TREE\x01\x00"]  # nodes of chunks, leaves
    for node in index:
        for place in [*range(6), *rng.integers(24, 24 + 30 * 40, 20)]:
            damaged = bytearray(content)
            damaged[node + int(place)] ^= 1 << 7
            path.write_bytes(damaged)
            with h5py.File(path) as file:
                try:
                    offsets = chunk_offsets(file["features"])
                except ValueError as error:
                    assert "damaged" in str(error)
                    continue
            # What the index cannot know: a place that another row has, or a byte that belongs to no entry.
            assert (offsets + 20 <= len(content)).all() and (offsets != right).sum() <= 1


def test_an_index_that_points_in_circles_ends(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    write(path)
    content = bytearray(path.read_bytes())
    leaf = next(
        i
        for i in range(len(content))
        if content[i : i + 6] == b"TREE\x01\x00" and content[i + 16 : i + 24] != b"\xff" * 8
    )
    content[leaf + 16 : leaf + 24] = leaf.to_bytes(8, "little")
    path.write_bytes(content)
    monkeypatch.setattr(module, "MOST_NODES", 1000)
    with pytest.raises(hdf5.DamagedFile, match="damaged"), hdf5.open_h5(path) as file:
        hdf5.read_rows(file["features"])
