"""SIGKILL at a chosen step of a piece of work: before any of its changes to the file system, or amid a write.

The work runs in a forked child, so that thousands of kills need no start of Python. Steps are counted by audit events
of Python, which come before the change that they announce, and by calls of fsync. `half` is what a power failure may
leave: at the fsync of a file, half of what was written since the last one; at the renaming of a file that was never
flushed, its new name and no content.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHANGES = frozenset(("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"))
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
TIMEOUT_S = 120


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (negative: the signal), what it printed, and the steps that it took."""

    code: int
    output: str
    steps: int = 0
    halves: frozenset[int] = frozenset()  # the steps at which a power failure may leave less than a kill

    @property
    def traceback(self) -> bool:
        return "Traceback" in self.output


def run_in_child(work: Callable[[], Any], root: Path, kill_at: int | None = None, half: bool = False) -> Ended:
    """Runs `work` in a child whose changes below `root` are counted; it is killed before step `kill_at`, from 1."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as counted:
        child = os.fork()
        if child == 0:
            _in_child(work, root, kill_at, half, output.fileno(), counted.fileno())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        counted.seek(0)
        halves = [line == b"half" for line in counted.read().splitlines()]
        text = output.read().decode(errors="replace")
    return Ended(code, text, len(halves), frozenset(step for step, half in enumerate(halves, 1) if half))


def _in_child(work: Callable[[], Any], root: Path, kill_at: int | None, half: bool, output: int, counted: int) -> None:
    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.alarm(TIMEOUT_S)
        _Steps(root, kill_at, half, counted).install()
        code = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Steps:
    """Counts steps and kills the process; each step is a line in the file `counted`."""

    def __init__(self, root: Path, kill_at: int | None, half: bool, counted: int) -> None:
        self._root, self._kill_at, self._half, self._counted = f"{root}/", kill_at, half, counted
        self._pid, self._step, self._fsync = os.getpid(), 0, os.fsync
        self._flushed: dict[int, int] = {}  # bytes of a file, by inode

    def install(self) -> None:
        """For the rest of this process: an audit hook cannot be removed."""
        sys.addaudithook(self._audit)
        os.fsync = self._flush  # type: ignore[assignment]

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in _CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING)
        if not (changes and self._is_ours(arguments[0])):
            return
        renamed = event == "os.rename" and self._is_unflushed(Path(os.fsdecode(arguments[0])))
        self._take((lambda: _rename_empty(*arguments[:2])) if renamed else None)

    def _is_unflushed(self, path: Path) -> bool:
        return path.is_file() and path.stat().st_ino not in self._flushed

    def _is_ours(self, path: object) -> bool:
        """Below the root, or relative to an open folder, as in shutil.rmtree."""
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        text = os.fsdecode(path)
        return text.startswith(self._root) or not text.startswith("/")

    def _flush(self, file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        path, status = Path(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and self._is_ours(path.readlink()):
            kept = (self._flushed.get(status.st_ino, 0) + status.st_size) // 2
            self._take(lambda: os.truncate(path, kept))
            self._flushed[status.st_ino] = status.st_size
        else:
            self._take()
        self._fsync(descriptor)

    def _take(self, lose: Callable[[], None] | None = None) -> None:
        """`lose`: what a power failure does to the file at this step."""
        if os.getpid() != self._pid:  # a process that the work has started
            return
        self._step += 1
        os.write(self._counted, b"half\n" if lose else b"step\n")
        if self._step == self._kill_at:
            self._kill_at = None  # losing a part is a change, too
            if self._half and lose is not None:
                lose()
            os.kill(self._pid, signal.SIGKILL)


def _rename_empty(source: str, target: str) -> None:
    os.truncate(source, 0)
    Path(source).replace(target)
