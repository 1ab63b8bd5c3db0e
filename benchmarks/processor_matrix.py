"""Runs the tests as other processors would: each instruction set, with one thread and two, in a random order each time.

    python -m tokenreel.benchmarks.processor_matrix [--variants own,avx2] [--threads 1,2] [--seed 7] [tests/priors ...]

What a sum is rounded to depends on the order of its additions, and that on the processor: PyTorch's own kernels,
oneDNN, MKL and NumPy each have code for several instruction sets. A variant lets them use no more than the one it is
named after, `own` all that they find. MKL has other code for Intel's processors than for all others: on others the
variants with `-intel` make it take Intel's, for which they need a C compiler. Paths are those of pytest, by default the
whole suite: some five minutes for each of up to 20 runs.

Prints a line for each run: how it went, and the tests that failed with the log that says why. The order comes again
with its seed: pytest --shuffle SEED. Exits with 1 if any test failed.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]  # the package links to this folder
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
SETS = {  # instruction set -> what PyTorch, oneDNN and MKL call it
    "sse": ("default", "SSE41", "SSE4_2"),
    "avx2": ("avx2", "AVX2", "AVX2"),
    "avx512": ("avx512", "AVX512_CORE", "AVX512"),
    "avx512-bf16": ("avx512", "AVX512_CORE_BF16", "AVX512_E2"),
}
# What MKL asks itself; the first found of a name is what the loader takes.
PRETENCE = "int mkl_serv_intel_cpu(void) { return 1; } int mkl_serv_intel_cpu_true(void) { return 1; }"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", help="by default all that this machine can be")
    parser.add_argument("--threads", default="1,2", help="OMP_NUM_THREADS of each run; default: 1,2")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1000), help="of the first order, then one more each"
    )
    parser.add_argument("paths", nargs="*")
    flags = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="processor-matrix-"))
    known = variants(folder)
    names = flags.variants.split(",") if flags.variants else list(known)
    if not known.keys() >= set(names):
        parser.error(f"--variants (={flags.variants}) must be among {','.join(known)}")
    runs = [(name, threads) for name in names for threads in flags.threads.split(",")]
    print(f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, PyTorch {torch.__version__}")  # noqa: T201
    passed = [
        run(name, known[name], threads, flags.seed + i, flags.paths, folder) for i, (name, threads) in enumerate(runs)
    ]
    sys.exit(not all(passed))


def variants(folder: Path) -> dict[str, dict[str, str]]:
    """Name -> environment. NumPy is only limited to the least that it knows, as the names of its sets change."""
    known: dict[str, dict[str, str]] = {"own": {}}
    known |= {name: dict(zip(LIMITS, values, strict=True)) for name, values in SETS.items()}
    known["sse"]["NPY_DISABLE_CPU_FEATURES"] = " ".join(np.show_config(mode="dicts")["SIMD Extensions"]["found"])
    compiler = shutil.which("cc")
    if compiler and "Intel" not in processor():
        library = str(folder / "intel.so")
        command = [compiler, "-shared", "-fPIC", "-o", library, "-x", "c", "-"]
        subprocess.run(command, input=PRETENCE, text=True, check=True)
        known |= {f"{name}-intel": {**environment, "LD_PRELOAD": library} for name, environment in known.items()}
    return known


def processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else "unknown processor"


def run(name: str, environment: dict[str, str], threads: str, seed: int, paths: list[str], folder: Path) -> bool:
    log = folder / f"{name}-{threads}.log"
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-rfE",
        "-p",
        "no:cacheprovider",
        "--shuffle",
        str(seed),
        *paths,
    ]
    environment = {**os.environ, **environment, "OMP_NUM_THREADS": threads}
    with log.open("w") as file:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False)
    lines = log.read_text().splitlines()
    failed = [line.partition(" - ")[0] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    outcome = "; ".join([lines[-1], *failed, *([f"see {log}"] if done.returncode else [])])
    print(f"{name}, {threads} thread(s), --shuffle {seed}: {outcome}", flush=True)  # noqa: T201
    return done.returncode == 0


if __name__ == "__main__":
    main()
