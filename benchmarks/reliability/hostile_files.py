"""Files of a few hundred bytes that claim gigabytes, by kind. Each function writes `path` with its own suffix."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from numpy.lib import format as npy

HUGE = (10**10, 16, 64, 64, 3)


def npy_header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def npy_of(shape: tuple[int, ...]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.with_suffix(".npy").write_bytes(npy_header(shape))

    return write


def npy_with_long_header(path: Path) -> None:
    path.with_suffix(".npy").write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{" * 100)


def npz_of(shape: tuple[int, ...], descr: str = "|u1", name: str = "data") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path.with_suffix(".npz"), "w") as archive:
            archive.writestr(f"{name}.npy", npy_header(shape, descr))
            if name != "data":
                archive.writestr("data.npy", npy_header((2, 1, 5, 7, 3)) + bytes(2 * 5 * 7 * 3))

    return write


def write_npz(path: Path, body: bytes, size: int, crc: int = 0, name: bytes = b"data.npy") -> None:
    """An archive of one deflated member, of which the directory states any `size`."""
    common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(body), size, len(name), 0)
    start = b"PK\x03\x04" + common + name + body
    directory = b"PK\x01\x02\x14\x00" + common + bytes(14) + name
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory), len(start), 0)
    path.with_suffix(".npz").write_bytes(start + directory + end)


def npz_with_a_forged_directory(path: Path) -> None:
    """The size that the central directory states fits the header; the compressed bytes cannot hold it."""
    header = npy_header(HUGE[1:])
    deflate = zlib.compressobj(wbits=-15)
    write_npz(
        path, deflate.compress(header) + deflate.flush(), len(header) + int(np.prod(HUGE[1:])), zlib.crc32(header)
    )


def npz_with_long_header(path: Path) -> None:
    with zipfile.ZipFile(path.with_suffix(".npz"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**26) + b" " * 2**26)


def npz_of_a_large_array(path: Path) -> None:
    """Deflated zeros: 1.2 GiB in about a megabyte, in pieces that are repeated instead of compressed one by one."""
    shape = (1200, 1, 1024, 1024, 1)
    piece = zlib.compressobj(9, wbits=-15)
    zeros = piece.compress(bytes(1 << 20)) + piece.flush(zlib.Z_FULL_FLUSH)
    start = zlib.compressobj(9, wbits=-15)
    head = start.compress(npy_header(shape)) + start.flush(zlib.Z_FULL_FLUSH)
    write_npz(path, head + zeros * shape[0] + b"\x03\x00", len(npy_header(shape)) + int(np.prod(shape)))


def npz_of_another_compression(path: Path) -> None:
    with zipfile.ZipFile(path.with_suffix(".npz"), "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("data.npy", npy_header((2**20, 16, 2, 2, 1)) + bytes(2**26))


def hdf5_never_written(path: Path) -> None:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_dataset("data", (7000, *HUGE[1:]), "u1", chunks=(1, *HUGE[1:]), compression="gzip")


def hdf5_without_values(path: Path) -> None:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_dataset("data", (7000, *HUGE[1:]), "u1")


def hdf5_of_many_videos(path: Path) -> None:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_dataset("data", HUGE, "u1", chunks=(1, *HUGE[1:]))


def hdf5_partly_written(path: Path) -> None:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_dataset("data", (7, 2, 5, 11, 3), "u1", chunks=(1, 2, 5, 11, 3))[:3] = 9


def hdf5_of_huge_chunks(path: Path) -> None:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_dataset("data", (1, 1025, 1024, 1024, 1), "u1", chunks=True)
        data = file.create_dataset("x", (1, 1025, 1024, 1024, 1), "u1", chunks=(1, 1025, 1024, 1024, 1))
        data.id.write_direct_chunk((0,) * 5, b"any bytes")
        del file["data"]


def hdf5_of_many_labels(path: Path) -> None:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["data"] = np.zeros((2, 5, 7, 11, 3), np.uint8)
        file.create_dataset("labels", (10**10,), "S9", chunks=(1000,))


def hdf5_of_linked_groups(path: Path) -> None:
    """Twelve groups, each with ten links to the next: 10^12 paths to one dataset."""
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        inner = file.create_group("inner")
        inner["data"] = np.zeros((5, 7, 11, 3), np.uint8)
        for level in range(12):
            outer = file.create_group(f"level{level}")
            for link in range(10):
                outer[str(link)] = inner
            inner = outer


def tar_with_long_header(kind: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        info = tarfile.TarInfo("a.mp4")
        info.type, info.size = kind, 5 << 30
        with path.with_suffix(".tar").open("wb") as file:
            file.write(info.tobuf())
            file.truncate(6 << 30)  # a hole, which takes no space

    return write


def npz_of_long_labels(path: Path) -> None:
    """Names of classes of 100 million characters, deflated to a megabyte."""
    piece = zlib.compressobj(9, wbits=-15)
    zeros = piece.compress(bytes(1 << 20)) + piece.flush(zlib.Z_FULL_FLUSH)
    start, (count, size) = zlib.compressobj(9, wbits=-15), (2, 100 << 20)
    header = npy_header((count,), f"<U{size}")
    labels = start.compress(header) + start.flush(zlib.Z_FULL_FLUSH) + zeros * (count * size * 4 >> 20) + b"\x03\x00"
    write_npz(path, labels, len(header) + count * size * 4, name=b"labels.npy")
    data = npy_header((count, 1, 5, 7, 3)) + bytes(count * 5 * 7 * 3)
    with zipfile.ZipFile(path.with_suffix(".npz"), "a") as archive:
        archive.writestr("data.npy", data)


def hdf5_of_long_labels(path: Path) -> None:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["data"] = np.zeros((2, 5, 7, 11, 3), np.uint8)
        file.create_dataset("labels", (2,), f"S{(1 << 31) - 1}", chunks=(1,), compression="gzip")


def hole(path: Path, start: bytes = b"", size: int = 5 << 30) -> None:
    """A file that begins with `start` and goes on with a hole, which takes no space."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
