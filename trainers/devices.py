"""Devices by their names: what the makers' data sheets say that they can do at best. No torch."""

from dataclasses import dataclass

_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator. `peak_flops`: dense bfloat16, no sparsity; `bandwidth`: of its memory, bytes/s."""

    name: str
    peak_flops: float
    bandwidth: float
    memory_bytes: int


def _device(name: str, tflops: float, terabytes_per_second: float, gib: int) -> Device:
    return Device(name=name, peak_flops=tflops * 1e12, bandwidth=terabytes_per_second * 1e12, memory_bytes=gib * _GIB)


# Longer names first: "H100 PCIe" must not be read as "H100". A100 comes with 40 GB too: plans then need --gpu-memory.
DEVICES = (
    _device("GB200", 2500, 8.0, 186),
    _device("B200", 2250, 8.0, 180),
    _device("H100 PCIe", 756, 2.0, 80),
    _device("H100 NVL", 835, 3.9, 94),
    _device("H200", 989, 4.8, 141),
    _device("H100", 989, 3.35, 80),
    _device("H20", 148, 4.0, 96),
    _device("A100", 312, 2.0, 80),
    _device("L40S", 362, 0.864, 48),
    _device("L4", 121, 0.3, 24),
    _device("A10G", 70, 0.6, 24),
    _device("RTX 4090", 165, 1.008, 24),
    _device("RTX 3090", 71, 0.936, 24),
)


def device_named(name: str) -> Device | None:
    """The device that a name such as `torch.cuda.get_device_name()` holds; None for a CPU or an unknown one."""
    return next((device for device in DEVICES if device.name in name), None)


def peak_flops(device_name: str) -> float | None:
    """bfloat16 peak of a CUDA device by `torch.cuda.get_device_name()`; None for a CPU or an unknown device."""
    device = device_named(device_name)
    return None if device is None else device.peak_flops
