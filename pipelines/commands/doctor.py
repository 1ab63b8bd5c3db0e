"""`tokenreel doctor`: the environment, and package versions with known vulnerabilities."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import torch

from tokenreel.pipelines.common.device import usable_cores
from tokenreel.pipelines.requests.program import DoctorRequest
from tokenreel.pipelines.training.precision import bf16_conv3d_is_right

PACKAGES = ("torch", "numpy", "zarr", "numcodecs", "av", "accelerate", "huggingface-hub", "safetensors", "pillow")
DECODERS = ("h264", "hevc", "vp9", "libdav1d", "mpeg4")
SAFE_TORCH = (2, 10)  # CVE-2026-24747: earlier versions can be made to run code by a crafted checkpoint
SAFE_AVCODEC = (62, 28)  # CVE-2026-8461: FFmpeg before 8.1.2 writes out of bounds on crafted MagicYUV


def run(_: DoctorRequest) -> dict[str, Any]:
    """Versions, devices, codecs and free disk space; `warnings` is empty where nothing is known to be wrong."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "compute": _compute(),
        "video": _video(),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "hub": os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
        "warnings": _warnings(),
    }


def _compute() -> dict[str, Any]:
    cuda = range(torch.cuda.device_count())
    return {
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "bf16_matrix_units": torch.cpu._is_amx_tile_supported(),
        "bf16_conv3d": "right" if bf16_conv3d_is_right() else "wrong weight gradients; training computes them in fp32",
        "gpus": [torch.cuda.get_device_name(index) for index in cuda],
    }


def _video() -> dict[str, Any]:
    return {
        "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
        "decoders": [name for name in DECODERS if name in av.codecs_available],
        "encodes_h264": "libx264" in av.codecs_available,
    }


def _warnings() -> list[str]:
    found = []
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        found.append(f"torch {torch.__version__}: upgrade to 2.10 or newer (CVE-2026-24747)")
    if av.library_versions["libavcodec"][:2] < SAFE_AVCODEC:
        found.append(
            f"PyAV {av.__version__}: its FFmpeg has CVE-2026-8461: decode only videos that you trust, or upgrade av"
        )
    if "libx264" not in av.codecs_available:
        found.append("PyAV was built without libx264: mp4 files cannot be written")
    return found
