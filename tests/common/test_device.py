"""Devices and precision: errors about missing devices, the default precision of each machine, names."""

from __future__ import annotations

import ctypes
import os

import pytest
import torch

from common.errors import UserError
from common.nn import device


@pytest.fixture
def machine(monkeypatch):
    """Simulates a machine with a number of GPUs and a processor."""

    def make(gpus: int = 0, bf16: bool = True, mps: bool = False, cpuinfo: str | None = "") -> None:
        class CpuInfo:
            def __init__(self, path):
                assert path == "/proc/cpuinfo"

            def read_text(self):
                if cpuinfo is None:
                    raise FileNotFoundError("/proc/cpuinfo")
                return cpuinfo

        device.has_bfloat16.cache_clear()
        monkeypatch.setattr(device, "Path", CpuInfo)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    yield make
    device.has_bfloat16.cache_clear()


# devices


@pytest.mark.parametrize("devices", ["auto", 1, 2, "2", [0]])
def test_devices_of_a_cpu_pass(machine, devices):
    machine()
    device.check_devices("cpu", devices)
    device.check_devices("auto", devices)


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_missing_gpu_is_an_error(machine, accelerator):
    machine()
    with pytest.raises(UserError, match=r"no GPU was found on this machine; use --accelerator cpu \(or auto\)"):
        device.check_devices(accelerator, 1)
    machine(gpus=1)
    device.check_devices(accelerator, 1)
    machine(mps=True)
    device.check_devices("gpu", 1)


@pytest.mark.parametrize("devices", [0, "0", [], "[]", "", -1, -2])
def test_no_device_at_all_is_an_error(machine, devices):
    machine()
    with pytest.raises(UserError, match="no device to train on; use 1 or more, or auto"):
        device.check_devices("cpu", devices)


def test_more_gpus_than_the_machine_has_are_an_error(machine):
    machine(gpus=2)
    device.check_devices("gpu", 2)
    with pytest.raises(UserError, match=r"--devices 3: this machine has 2 GPU\(s\)"):
        device.check_devices("gpu", 3)
    device.check_devices("cpu", 3)


# precision


PLAIN = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx512f avx512_bf16x sse2\n"
NATIVE = PLAIN.replace("avx512_bf16x", "avx512_bf16")
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.mark.parametrize(
    "cpuinfo, precision",
    [
        (PLAIN, "32-true"),
        (NATIVE, "bf16-mixed"),
        (PLAIN.replace("sse2", "amx_bf16"), "bf16-mixed"),
        (ARM, "bf16-mixed"),
        (ARM.replace("bf16", "crc32"), "32-true"),
        ("bugs\t: avx512_bf16\n", "32-true"),
        ("", "32-true"),
        (None, "32-true"),
    ],
)
@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_a_processor_with_native_bfloat16_trains_in_it(machine, cpuinfo, precision, accelerator):
    machine(cpuinfo=cpuinfo)
    assert device.default_precision(accelerator) == precision


def test_a_gpu_with_native_bfloat16_trains_in_it(machine):
    for bf16, precision in [(True, "bf16-mixed"), (False, "32-true")]:
        for accelerator in ("gpu", "cuda", "auto"):
            machine(gpus=1, bf16=bf16, cpuinfo=PLAIN if bf16 else NATIVE)
            assert device.default_precision(accelerator) == precision
    machine(gpus=1, bf16=False, cpuinfo=NATIVE)
    assert device.default_precision("cpu") == "bf16-mixed", "asked for the processor, the GPU does not count"


def test_apple_silicon_trains_in_float32(machine):
    machine(mps=True, cpuinfo=NATIVE)
    assert {device.default_precision(name) for name in ("mps", "gpu", "auto")} == {"32-true"}


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bfloat16_is_an_error_on_a_processor_without_it(machine, precision):
    machine(cpuinfo=PLAIN)
    for accelerator in ("cpu", "auto"):
        device.check_precision("32-true", accelerator)
        with pytest.raises(UserError, match=f"--precision {precision}: this processor has no bfloat16; use 32-true"):
            device.check_precision(precision, accelerator)
    machine(cpuinfo=NATIVE)
    device.check_precision(precision, "cpu")
    machine(gpus=1, cpuinfo=PLAIN)
    device.check_precision(precision, "auto")
    device.check_precision(precision, "gpu")
    with pytest.raises(UserError, match="this processor"):
        device.check_precision(precision, "cpu")


@pytest.mark.parametrize("precision", ["16-mixed", "16"])
@pytest.mark.parametrize("cpuinfo, default", [(PLAIN, "32-true"), (NATIVE, "bf16-mixed")])
def test_mixed_float16_is_an_error_on_a_processor(machine, precision, cpuinfo, default):
    machine(cpuinfo=cpuinfo)
    for accelerator in ("cpu", "auto"):
        with pytest.raises(UserError, match=f"--precision {precision}: mixed float16 needs a GPU; use {default}"):
            device.check_precision(precision, accelerator)
    machine(gpus=1)
    device.check_precision(precision, "auto")


def test_names_of_devices(machine, monkeypatch):
    machine(cpuinfo=PLAIN)
    for count, threads in [(1, "1 thread"), (2, "2 threads")]:
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        assert device.device_name(torch.device("cpu")) == f"Some CPU @ 2 GHz, {threads}"
    machine(cpuinfo=None)
    monkeypatch.setattr(device.platform, "machine", lambda: "riscv64")
    assert device.device_name(torch.device("cpu")).startswith("riscv64, ")


@pytest.mark.parametrize("present", [True, False])
def test_torch_looks_for_gpus_through_the_driver_only_where_there_are_some(monkeypatch, present):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning sets it
    device.stop_looking_for_gpus()
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == ("1" if present else "0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_an_optimizer_step_loads_no_library(monkeypatch):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    device.stop_looking_for_gpus()
    weight = torch.nn.Parameter(torch.zeros(3))
    weight.grad = torch.ones(3)
    optimizer = torch.optim.Adam([weight], fused=True)
    loaded: list[str] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **options: loaded.append(args[0]))
    optimizer.step()
    assert loaded == []


# CUDA


def cuda_settings() -> tuple[bool, ...]:
    return torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture
def settings_restored():
    before = cuda_settings()
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize(("precision", "tf32"), [("32-true", False), ("64-true", False), ("bf16-mixed", True)])
def test_tf32_is_for_mixed_precision_and_never_where_float32_is_asked_for(machine, settings_restored, precision, tf32):
    before = cuda_settings()
    machine()
    device.set_cuda_defaults(precision)
    with device.full_float32(torch.device("cpu")):
        assert cuda_settings() == before, "without CUDA nothing changes"
    machine(gpus=1)
    device.set_cuda_defaults(precision)
    assert cuda_settings() == (True, tf32, tf32)
    with torch.autocast("cpu", torch.bfloat16), device.full_float32(torch.device("cpu")):
        assert cuda_settings() == (True, False, False) and not torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "highest", "which Lightning asks for"
    assert cuda_settings() == (True, tf32, tf32)
