"""Devices and precision: which ones this machine has, and the defaults that follow."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError


def check_devices(accelerator: str, devices: Any) -> None:
    """Raises UserError if `accelerator` is not on this machine or `devices` names none."""
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available() and not torch.backends.mps.is_available():
        raise UserError("--accelerator gpu: no GPU was found on this machine; use --accelerator cpu (or auto)")
    minimum = -1 if device_type(accelerator) == "cuda" else 1  # -1 is all GPUs
    if devices in (0, "0", [], "", "[]") or (isinstance(devices, int) and devices < minimum):
        raise UserError(f"--devices {devices}: no device to train on; use 1 or more, or auto")
    if isinstance(devices, int) and accelerator in ("gpu", "cuda") and devices > max(1, torch.cuda.device_count()):
        raise UserError(f"--devices {devices}: this machine has {torch.cuda.device_count()} GPU(s)")


def count_devices(accelerator: str, devices: Any) -> int:
    """Processes on this machine that the Trainer's `devices` means."""
    if isinstance(devices, list | tuple):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        return max(1, torch.cuda.device_count()) if device_type(accelerator) == "cuda" else 1
    return len(str(devices).split(",")) if "," in str(devices) else int(devices)


def choose_device(accelerator: str) -> torch.device:
    """Device that `auto`, `cpu` or `gpu` means on this machine. Raises UserError if it has none."""
    check_devices(accelerator, "auto")
    return torch.device(device_type(accelerator))


def device_type(accelerator: str) -> str:
    """Torch's device type (`cpu`, `cuda` or `mps`) that `accelerator` means on this machine."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def default_precision(accelerator: str) -> str:
    """Precision: `bf16-mixed` where the device of `accelerator` has native bfloat16, else `32-true`."""
    return "bf16-mixed" if has_bfloat16(device_type(accelerator)) else "32-true"


def check_precision(precision: str, accelerator: str) -> None:
    """Raises UserError if `precision` is a bfloat16 that a processor lacks: slow beyond use, and some layers fail in it.

    Also if it is `16-mixed` on a processor, in place of which Lightning would take `bf16-mixed`.
    """
    on_cpu = accelerator in ("auto", "cpu") and device_type(accelerator) == "cpu"
    if precision in ("16", "16-mixed") and on_cpu:
        raise UserError(f"--precision {precision}: mixed float16 needs a GPU; use {default_precision(accelerator)}")
    if precision.startswith("bf16") and on_cpu and not has_bfloat16("cpu"):
        raise UserError(f"--precision {precision}: this processor has no bfloat16; use 32-true")


@cache
def has_bfloat16(device_type: str) -> bool:
    """Whether this machine's devices of a type (torch's name, as `cpu`) compute in bfloat16 natively.

    Others emulate it: matrix products on a processor without it take a hundred times as long as in float32.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "mps":
        return False
    flags = set(_cpu_info("flags").split()) | set(_cpu_info("Features").split())  # x86 and Arm spell it differently
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def autocast_context(precision: str, device: torch.device) -> torch.autocast:
    """Autocast of Lightning's `precision`: bfloat16 on `device` for `bf16-mixed`, else none."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")


def set_cuda_defaults(precision: str) -> None:
    """Settings of CUDA for a run: cuDNN's search for the fastest convolutions, and TF32 under mixed precision alone.

    TF32 rounds the inputs of float32 products to ten bits. Where a product is left in float32 beside bfloat16 that costs
    nothing; `32-true` says 32 bits, and has them. Without CUDA nothing changes.
    """
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True  # of images, whose batches are of few shapes
        _allow_tf32(precision.endswith("mixed"))


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Context in which float32 on `device` is computed as such: without autocast, and on CUDA without TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        _allow_tf32(False)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _allow_tf32(before)


def _allow_tf32(allowed: bool) -> None:
    # the older of torch's two interfaces: Lightning reads it, and torch refuses a mixture of both
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def stop_looking_for_gpus() -> None:
    """Spares every optimizer step a search for GPUs where there are none.

    Torch's optimizers ask at each step whether there is one. Lightning has the driver's library answer (NVML), which is then
    looked for in vain each time: that takes longer than the update of a small network.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the processor with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"{_cpu_info('model name') or platform.machine()}, {count} thread{'s' if count > 1 else ''}"


def _cpu_info(key: str) -> str:
    """First value of `key` in /proc/cpuinfo; empty where there is no such file or key."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key), "")
