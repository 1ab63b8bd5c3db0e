"""Lets tokenreel see another system: the one that the variable PLATFORM names, win32 or darwin.

Python imports this file at its start if the folder is in PYTHONPATH. Modules of tokenreel then import modules of the
standard library that lack what that system lacks; everybody else sees the system that runs the test, whose paths, files
and processes are used.
"""

from __future__ import annotations

import builtins
import importlib
import os
import types
from collections.abc import Mapping, Sequence
from typing import Any

ABSENT_MODULES = {"win32": ("fcntl", "grp", "pwd", "resource", "termios"), "darwin": ()}
ABSENT = {
    "win32": {
        "os": "O_CLOEXEC fork getuid killpg mkfifo pread preadv pwrite readv sched_getaffinity statvfs writev",
        "signal": "SIGALRM SIGHUP SIGKILL SIGSTOP SIGUSR1 SIGUSR2 setitimer",
        "select": "epoll poll",
        "mmap": "MAP_PRIVATE MAP_SHARED PROT_READ PROT_WRITE",
    },
    "darwin": {"os": "sched_getaffinity", "select": "epoll", "resource": "prlimit"},
}
CHANGED = {"sys": {"platform": os.environ.get("PLATFORM")}, "subprocess": {"CREATE_NEW_PROCESS_GROUP": 0}}


class OtherModule(types.ModuleType):
    """A module as it is on the other system."""

    def __init__(self, real: types.ModuleType, absent: Sequence[str], changed: Mapping[str, Any]) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(changed)
        self._real, self._absent = real, absent

    def __getattr__(self, name: str) -> Any:
        if name in self._absent:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on this system")
        return getattr(self._real, name)


def hide(platform: str) -> None:
    absent = {name: names.split() for name, names in ABSENT[platform].items()}
    others = {
        name: OtherModule(importlib.import_module(name), absent.get(name, ()), CHANGED.get(name, {}))
        for name in {*absent, *CHANGED}
    }
    real_import = builtins.__import__

    def import_other(name: str, globals: Mapping[str, Any] | None = None, *args: Any, **named: Any) -> types.ModuleType:
        if globals is not None and (globals.get("__package__") or "").partition(".")[0] == "tokenreel":
            if name in ABSENT_MODULES[platform]:
                raise ModuleNotFoundError(f"No module named {name!r} on this system", name=name)
            if name in others:
                return others[name]
        return real_import(name, globals, *args, **named)

    builtins.__import__ = import_other


if os.environ.get("PLATFORM"):
    hide(os.environ["PLATFORM"])
