"""What the machine can do: devices and cores, number formats, and the C allocator's habits."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from common.errors import UserError

T = TypeVar("T")


def check_devices(accelerator: str, devices: Any) -> None:
    """Raises UserError if `accelerator` is not on this machine or `devices` names none."""
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available() and not torch.backends.mps.is_available():
        raise UserError("--accelerator gpu: no GPU was found on this machine; use --accelerator cpu (or auto)")
    if devices in (0, "0", [], "", "[]"):
        raise UserError(f"--devices {devices}: no device to train on; use 1 or more, or auto")
    if isinstance(devices, int) and accelerator in ("gpu", "cuda") and devices > max(1, torch.cuda.device_count()):
        raise UserError(f"--devices {devices}: this machine has {torch.cuda.device_count()} GPU(s)")


def choose_device(accelerator: str) -> torch.device:
    """The device that `auto`, `cpu` or `gpu` means on this machine. Raises UserError if it has none."""
    check_devices(accelerator, "auto")
    if accelerator == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        return torch.device("cpu")
    return torch.device("cuda" if torch.cuda.is_available() else "mps")


def default_precision(accelerator: str) -> str:
    """`bf16-mixed` where the device that `accelerator` means computes in bfloat16 natively, else `32-true`."""
    kind = "cpu"
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        kind = "cuda"
    elif accelerator == "mps" or (accelerator in ("auto", "gpu") and torch.backends.mps.is_available()):
        kind = "mps"
    return "bf16-mixed" if has_bfloat16(kind) else "32-true"


def check_precision(precision: str, accelerator: str) -> None:
    """Raises UserError if `precision` is a bfloat16 that a processor lacks: slow beyond use, and some layers fail in it."""
    if not precision.startswith("bf16") or accelerator not in ("auto", "cpu"):
        return
    if choose_device(accelerator).type == "cpu" and not has_bfloat16("cpu"):
        raise UserError(f"--precision {precision}: this processor has no bfloat16; use 32-true")


@cache
def has_bfloat16(kind: str) -> bool:
    """Whether this machine's devices of a `kind` (torch's name, as `cpu`) compute in bfloat16 natively.

    Others emulate it: matrix products on a processor without it take a hundred times as long as in float32.
    """
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "mps":
        return False
    flags = set(_cpu_info("flags").split()) | set(_cpu_info("Features").split())  # x86 and Arm spell it differently
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def autocast_context(precision: str, device: torch.device) -> torch.autocast:
    """A context in which `device` computes as Lightning's `precision` says: in bfloat16 for `bf16-mixed`, else as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")


def stop_looking_for_gpus() -> None:
    """Spares every optimizer step a search for GPUs where there are none.

    Torch's optimizers ask at each step whether there is one. Lightning has the driver's library answer (NVML), which is then
    looked for in vain each time: that takes longer than the update of a small network.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def parallel_map(work: Callable[[Iterable[T]], None], items: Sequence[T], device: torch.device) -> None:
    """Calls `work` with all `items`; on a CPU each core calls it at the same time, and draws the next item when it is free.

    For inference in batches: a core that computes a batch of its own waits for none, while cores that share each operation
    wait for each other at the end of each. Whatever `work` has to switch on (autocast, inference mode) belongs to its own
    thread, so it has to do it itself.
    """
    threads = torch.get_num_threads()
    cores = min(threads, len(items)) if device.type == "cpu" else 1
    if cores < 2:
        work(items)
        return
    queue = deque(items)

    def drawn() -> Iterator[T]:
        while True:
            try:
                item = queue.popleft()
            except IndexError:  # asked for before, it might be another core that gets the last
                return
            yield item

    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            list(pool.map(work, [drawn() for _ in range(cores)]))
        finally:
            queue.clear()  # after an error, or Ctrl-C, nothing more is begun
            torch.set_num_threads(threads)


def device_name(device: torch.device) -> str:
    """A name for people: the GPU's, or the processor's with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"{_cpu_info('model name') or platform.machine()}, {count} thread{'s' if count > 1 else ''}"


def _cpu_info(key: str) -> str:
    """The first value of `key` in /proc/cpuinfo; empty where there is no such file or key."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key), "")


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next step instead of giving it back to the system; True if it could.

    By default every large tensor is mapped and unmapped anew, and each of its pages is cleared by a page fault: about a
    third of a training step of large feature maps on a CPU. The price is that the process holds on to its peak memory.
    """
    if not sys.platform.startswith("linux") or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # from malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all([mallopt(mmap_max, 0), mallopt(trim_threshold, 2**31 - 1), mallopt(top_pad, 2**28)])
