"""A pretended accelerator: tensors that say they are on a device, compute on the CPU, and record what a GPU would wait for.

`torch.device("lazy")` stands for the GPU: no backend has it here, and autograd runs its backward passes in the calling
thread, without a driver. A `DeviceTensor` has that device and holds its values in a CPU tensor, so that a whole
`Trainer.fit` runs, with true values and true shapes. `PretendDevice` sees every operator. As CUDA does, it refuses operators
that mix devices. It records a host sync wherever CUDA would make the host wait for the device: values read by the host,
shapes that depend on values, and copies between host and device that are not `non_blocking`.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[1]
DEVICE = torch.device("lazy:0")
aten = torch.ops.aten

# operators whose result's shape, or whose kernel, needs values on the host
DATA_DEPENDENT = {
    *(aten.nonzero, aten.masked_select, aten.unique_consecutive, aten.unique_dim, aten._unique, aten._unique2),
    *(aten.bincount, aten.equal, aten._local_scalar_dense, aten.is_nonzero, aten.linalg_eigh, aten._linalg_eigh),
    *(aten.histc, aten._linalg_svd, aten.linalg_eigvals, aten.linalg_eig, aten._linalg_check_errors),
}
# operators that take a CPU tensor beside those on the device, and read it without a copy
HOST_ARGUMENTS = {aten._pack_padded_sequence, aten._pad_packed_sequence, aten._pack_padded_sequence_backward}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}


class DeviceTensor(Tensor):
    """Tensor on the pretended device, with its values in the CPU tensor `values`."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> DeviceTensor:
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        new = Tensor._make_wrapper_subclass(cls, values.size(), device=DEVICE, **layout)
        new.values = values
        return new

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:  # a checkpoint holds the values, as of a GPU
        return self.values.detach().__reduce_ex__(protocol)

    def tolist(self) -> Any:  # which torch refuses to subclasses
        return self.cpu().tolist()

    def __repr__(self, **options: Any) -> str:
        return f"DeviceTensor({self.values!r})"


def tensors_in(nest: Any) -> Iterator[Tensor]:
    """Tensors among an operator's arguments."""
    for item in nest:
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, list | tuple):
            yield from tensors_in(item)


def map_tensors(function: Callable[[Tensor], Any], nest: Any) -> Any:
    """An operator's arguments, or results, with `function` applied to each tensor."""
    if isinstance(nest, Tensor):
        return function(nest)
    return type(nest)(map_tensors(function, item) for item in nest) if isinstance(nest, list | tuple) else nest


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Result of an operator, computed on the CPU; on the pretended device if an argument or the result is there."""
    wrapped = {id(x.values): x for x in tensors_in((args, *kwargs.values())) if isinstance(x, DeviceTensor)}
    target = kwargs.get("device")
    on_device = bool(wrapped) if target is None else torch.device(target).type == DEVICE.type
    if not wrapped and not on_device:
        return func(*args, **kwargs)

    def unwrap(tensor: Tensor) -> Tensor:
        return tensor.values if isinstance(tensor, DeviceTensor) else tensor

    def wrap(value: Tensor) -> Tensor:
        if id(value) in wrapped:
            assert wrapped[id(value)].shape == value.shape, f"{func} changes the shape in place"
            return wrapped[id(value)]
        return DeviceTensor(value) if on_device else value

    plain_args = map_tensors(unwrap, args)
    plain_kwargs = {name: map_tensors(unwrap, value) for name, value in kwargs.items() if name != "pin_memory"}
    if target is not None:
        plain_kwargs["device"] = torch.device("cpu")
    if func is aten._to_copy.default and not plain_kwargs.get("dtype"):  # a copy, also where the CPU would have none to make
        plain_kwargs["dtype"] = plain_args[0].dtype
    result = func(*plain_args, **plain_kwargs)
    if func.overloadpacket in HOST_ARGUMENTS and isinstance(result, tuple):  # the second, sizes or lengths, is the host's
        return wrap(result[0]), *result[1:]
    return map_tensors(wrap, result)


@dataclass(frozen=True)
class Event:
    """A host sync, or a copy between host and device: in which phase of a run, why, and by which line."""

    phase: str
    step: int
    kind: str
    line: str


@dataclass
class PretendDevice(TorchDispatchMode):
    """Context in which the pretended device exists. `syncs` and `copies` are what was recorded, by phase of the run."""

    phase: str = "setup"
    step: int = 0
    syncs: list[Event] = field(default_factory=list)
    copies: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.patches = contextlib.ExitStack()

    __hash__ = object.__hash__

    def __enter__(self) -> PretendDevice:
        self.before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(1.0, device=...)` is a copy
        self.swap = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter stays the same object: tied ones stay tied
        for patch in fences():
            self.patches.enter_context(patch)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.patches.close()
        torch.__future__.set_swap_module_params_on_conversion(self.swap)
        torch._C._set_only_lift_cpu_tensors(self.before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.inspect(func, args, kwargs)
        return compute(func, args, kwargs)

    def inspect(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Records syncs and copies of an operator; raises RuntimeError if it mixes devices."""
        tensors = list(tensors_in((args, *kwargs.values())))
        inside = [t for t in tensors if isinstance(t, DeviceTensor)]
        outside = [t for t in tensors if not isinstance(t, DeviceTensor)]
        packet = func.overloadpacket
        if packet in (aten._to_copy, aten.copy_, aten._copy_from):
            self.inspect_copy(func, args, kwargs)
        elif inside and packet in DATA_DEPENDENT:
            self.record(self.syncs, packet.__name__)
        elif packet is aten.repeat_interleave and inside and kwargs.get("output_size") is None:
            self.record(self.syncs, "repeat_interleave")
        elif inside and packet in INDEXED:
            self.inspect_index(packet, args)
        elif inside and packet not in HOST_ARGUMENTS and any(t.dim() for t in outside):
            self.refuse(func)

    def inspect_copy(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if func.overloadpacket is aten._to_copy:
            source, blocking = args[0], not kwargs.get("non_blocking")
            target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else source.device
        else:
            target, source = args[0].device, args[1]
            blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        if source.device.type == target.type:
            return
        name = "to the device" if target.type == DEVICE.type else "to the host"
        self.record(self.copies, name)
        if blocking or target.type == "cpu":
            self.record(self.syncs, name)

    def inspect_index(self, packet: Any, args: Any) -> None:
        indices = [index for index in args[1] if index is not None]
        fills = packet is not aten.index and len(args) > 2 and args[2].numel() == 1  # then CUDA fills by the mask
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not fills:
            self.record(self.syncs, "boolean index")
        if isinstance(args[0], DeviceTensor) and any(not isinstance(i, DeviceTensor) for i in indices):
            self.record(self.copies, "index to the device")
            self.record(self.syncs, "index to the device")
        values = args[2:3] if packet is not aten.index else ()
        if not isinstance(args[0], DeviceTensor) or any(not isinstance(v, DeviceTensor) and v.dim() for v in values):
            self.refuse(packet)

    def refuse(self, func: Any) -> None:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found {DEVICE} and cpu in {func}: {line()[0]}"
        )

    def record(self, events: list[Event], kind: str) -> None:
        where, phase = line()
        events.append(Event(phase or self.phase, self.step, kind, where))

    def most(self, phase: str) -> tuple[int, Counter[str]]:
        """Most syncs in one step of `phase`, and where they were."""
        steps: dict[int, Counter[str]] = {}
        for event in self.syncs:
            if event.phase == phase:
                steps.setdefault(event.step, Counter())[f"{event.line} ({event.kind})"] += 1
        worst = max(steps.values(), key=Counter.total, default=Counter())
        return worst.total(), worst


def line() -> tuple[str, str | None]:
    """Innermost line of this repository on the stack, and that of another library inside it; the phase, if it is there."""
    own = library = None
    phase, frame = None, sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        path = code.co_filename
        if code.co_name == "save_checkpoint":
            phase = "checkpoint"
        elif code.co_name in ("on_run_end", "_store_dataloader_outputs") and path.endswith("evaluation_loop.py"):
            phase = phase or "validation"
        if own is None and path != __file__ and "/torch/" not in path:
            where = f"{Path(path).relative_to(ROOT) if path.startswith(f'{ROOT}/') else Path(path).name}:{frame.f_lineno}"
            if "site-packages" in path:
                library = library or where
            elif path.startswith(f"{ROOT}/"):
                own = where
        frame = frame.f_back
    return " in ".join(filter(None, [own, library])), phase


def fences() -> list[Any]:
    """Patches of what torch knows of real devices alone: generators, autocast, and fused optimizers."""
    generator, autocast, enabled = torch.Generator, torch.autocast, torch.is_autocast_enabled

    class Generator:
        def __new__(cls, device: Any = "cpu") -> Any:
            return generator("cpu" if torch.device(device).type == DEVICE.type else device)

    class Autocast(autocast):  # type: ignore[misc, valid-type]
        def __init__(self, device_type: str, *args: Any, **options: Any) -> None:
            super().__init__("cpu" if device_type == DEVICE.type else device_type, *args, **options)

    def is_enabled(device: str | None = None) -> bool:
        return enabled("cpu" if device == DEVICE.type else device) if device is not None else enabled()

    fused = mock.patch.object(
        sys.modules["torch.optim.optimizer"], "_get_fused_kernels_supported_devices", lambda: ["cpu", "cuda", DEVICE.type]
    )
    return [
        mock.patch("torch.Generator", Generator),
        mock.patch("torch.autocast", Autocast),
        mock.patch("torch.is_autocast_enabled", is_enabled),
        fused,
    ]


class PretendAccelerator(Accelerator):
    """Accelerator of the pretended device, for Lightning."""

    def setup_device(self, device: torch.device) -> None:
        assert device == DEVICE

    def teardown(self) -> None:
        """Nothing to free."""

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> Any:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "pretend"


class PretendStrategy(SingleDeviceStrategy):
    """Lightning's strategy of one device, the pretended one."""

    def __init__(self) -> None:
        super().__init__(device=DEVICE, accelerator=PretendAccelerator())

    def teardown(self) -> None:
        """Leaves the module where it is."""


class Phases(Callback):
    """Says where in a run the pretended device is; first of the callbacks.

    A training step ends where the next begins: what the loader does for the next batch belongs to it.
    """

    def __init__(self, device: PretendDevice) -> None:
        self.device = device
        self.trained = {"step": 0, "logged step": 0, "validation step": 0}

    def enter(self, phase: str, step: int = -1) -> None:
        self.device.phase, self.device.step = phase, step
        if phase in self.trained:
            self.trained[phase] += 1

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.enter("epoch")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        logged = trainer._logger_connector.should_update_logs
        self.enter("logged step" if logged else "step", trainer.fit_loop.total_batch_idx)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.enter("validation")

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, *args: Any) -> None:
        self.enter("validation step", batch_idx)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.enter("validation")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.enter("epoch")
