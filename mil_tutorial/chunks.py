"""Where the rows of a chunked HDF5 dataset lie in its file, read from the file's own index.

h5py makes a Python object for every chunk that it tells about. TRIDENT writes a chunk for every row, so that this took
longer than reading the rows. Here the nodes of the index, each with the places of some 64 chunks, are read as arrays.

Source: "HDF5 File Format Specification Version 3.0", sections III.A.1 (version 1 B-trees, node type 1), IV.A.1.a
(object headers, version 1) and IV.A.2.i (data layout, version 3), The HDF Group. Other versions are left to h5py.
"""

from __future__ import annotations

import ctypes
import mmap
import struct

import h5py
import numpy as np

LAYOUT, CONTINUED = 0x0008, 0x0010  # kinds of messages in an object header

DAMAGED = "the index of its chunks is damaged"

MOST_NODES = 1 << 20  # of a damaged index whose nodes point in circles

NONE = 2**64 - 1  # an address that points nowhere

NODE = struct.Struct("<4sBBH8xQ")  # mark, kind, level, number of entries, (left), right neighbour

ENTRY = np.dtype([("size", "<u4"), ("filters", "<u4"), ("row", "<u8"), ("rest", "<u8", 2), ("address", "<u8")])


def chunk_offsets(dataset: h5py.Dataset) -> np.ndarray | None:
    """The place in the file of each chunk of a dataset (n, D) whose chunks are whole rows: int64 (chunks,), in order.

    -1 stands for a chunk that was never written. None if the file keeps them in another way than the usual one.

    Raises:
        ValueError: the index is damaged. HDF5 itself may search such an index without end.
    """
    with (
        open(dataset.file.filename, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        try:
            # Its address, in two parts. `h5o.get_info` knows it, too, and walks through the whole index first.
            low, high = h5py.h5g.get_objinfo(dataset.id).objno
            root = _index(content, low | high << 8 * ctypes.sizeof(ctypes.c_ulong))
            return None if root is None else _offsets(content, root, dataset)
        except struct.error as error:  # it leads out of the file
            raise ValueError(DAMAGED) from error


def _index(content: mmap.mmap, header: int) -> int | None:
    """Address of the root of a dataset's index, from its object header."""
    version, count, size = struct.unpack_from("<BxHxxxxI", content, header)
    if version != 1:
        return None
    parts = [(header + 16, size)]
    while parts and count > 0:
        start, size = parts.pop(0)
        end = start + size
        while start + 8 <= end and count > 0:
            kind, length = struct.unpack_from("<HH", content, start)
            if kind == CONTINUED:
                parts.append(struct.unpack_from("<QQ", content, start + 8))
            if kind == LAYOUT:
                version, way, dimensions, root = struct.unpack_from("<BBBQ", content, start + 8)
                return root if (version, way, dimensions) == (3, 2, 3) else None
            start, count = start + 8 + length, count - 1
    return None


def _entries(content: mmap.mmap, node: int) -> np.ndarray:
    """All entries of the index's leaves, from left to right."""
    leaves = []
    for _ in range(MOST_NODES):
        mark, kind, level, count, right = NODE.unpack_from(content, node)
        start = node + NODE.size
        if mark != b"TREE" or kind != 1 or start + count * ENTRY.itemsize > len(content):
            break
        if level:  # down to the first leaf; from there on sideways
            (node,) = struct.unpack_from("<Q", content, start + ENTRY.itemsize - 8)
            continue
        leaves.append(content[start : start + count * ENTRY.itemsize])
        if right == NONE:
            return np.frombuffer(b"".join(leaves), ENTRY)
        node = right
    raise ValueError(DAMAGED)


def _offsets(content: mmap.mmap, root: int, dataset: h5py.Dataset) -> np.ndarray | None:
    rows, columns = dataset.chunks
    offsets = np.full(-(-len(dataset) // rows), -1, np.int64)
    if root == NONE:  # nothing was written
        return offsets
    entries = _entries(content, root)
    size = rows * columns * dataset.dtype.itemsize
    plain = (entries["size"] == size) & (entries["filters"] == 0) & (entries["rest"] == 0).all(1)
    inside = (entries["row"] < len(dataset)) & (entries["address"] + size <= len(content))
    number = (entries["row"] // rows).astype(np.int64)
    if not (plain & inside).all() or (entries["row"] % rows).any() or (np.diff(number) <= 0).any():
        raise ValueError(DAMAGED)
    offsets[number] = entries["address"]
    return offsets
