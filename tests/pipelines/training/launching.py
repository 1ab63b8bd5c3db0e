"""Starts scripts in several processes, as `accelerate launch` does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

# --multi_gpu starts the requested number of processes on CPU too; --cpu would silently start one.
LAUNCHER = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1")
SETTINGS = ("--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
LIMIT_S = 300


def run_processes(processes: int, script: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`script` in `processes` processes, all of which are gone afterwards."""
    launcher = [*LAUNCHER, f"--num_processes={processes}", *SETTINGS] if processes > 1 else []
    command = [sys.executable, *launcher, str(script), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        command, env={**os.environ, **ENVIRONMENT}, text=True, start_new_session=True, **pipes
    ) as started:
        try:
            out, err = started.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, started.returncode, out, err)
