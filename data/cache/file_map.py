"""Memory maps of files that hold no file descriptor, so that their number is not limited by that of open files.

Python's mmap keeps a duplicate of the descriptor (before 3.13, whose `trackfd=False` this is).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from functools import cache
from io import BufferedReader

import numpy as np

_FAILED = ctypes.c_void_p(-1).value


def map_file(file: BufferedReader, size: int) -> memoryview:
    """The first `size` bytes of an open file, read-only, until nothing refers to them; the file may be closed.

    `size` is above 0 and at most that of the file. Raises OSError if the system refuses.
    """
    if sys.platform == "win32":  # which limits no process to a number of descriptors worth mentioning
        return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
    address = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    content = (ctypes.c_ubyte * size).from_address(address)
    unmap = weakref.finalize(content, _libc().munmap, address, size)
    unmap.atexit = False  # the system unmaps, after the last reader
    return np.ctypeslib.as_array(content).data.toreadonly()


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    number, length, pointer = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
    libc.mmap.argtypes = (pointer, length, number, number, number, ctypes.c_long)
    libc.mmap.restype = pointer
    libc.munmap.argtypes = (pointer, length)
    return libc
