"""The machines that a plan is made for, and what it assumes of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainers.devices import device_named

_GIB = 2**30

# What a recipe can't know, stated in every plan.
_CPU_THREAD_FLOPS = 20e9  # float32 of one thread of a server's core, as measured in benchmarks/arithmetic.md's runs
_CPU_BANDWIDTH = 10e9


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One node. `num_cpus`, `labels`: None where they are not known, and then taken to suffice."""

    num_gpus: int
    num_cpus: int | None = None
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """Equal nodes, unless `nodes` tells of each. `num_gpus`: of all nodes together; None where a size is not known,
    and then not checked."""

    num_nodes: int = 1
    num_gpus: int = 0
    gpu_memory: int | None = None
    host_memory: int | None = None  # of one node
    num_cpus: int | None = None  # of one node
    peak_flops: float = _CPU_THREAD_FLOPS  # of one GPU, or of one thread
    bandwidth: float = _CPU_BANDWIDTH  # of one GPU's memory, or of what one worker gets of the host's
    nodes: tuple[NodeFacts, ...] = ()

    @property
    def gpus_per_node(self) -> int:
        """Rounded up where they do not divide."""
        return -(-self.num_gpus // self.num_nodes)

    @property
    def each(self) -> Sequence[NodeFacts]:
        """Every node."""
        equal = NodeFacts(num_gpus=self.gpus_per_node, num_cpus=self.num_cpus)
        return self.nodes or [equal] * self.num_nodes

    @property
    def has_gpus(self) -> bool:
        """Whether roles take GPUs; else they take cores."""
        return self.num_gpus > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user says of machines; None: as the device's data sheet says, or not known."""

    num_nodes: int = 1
    num_gpus: int = 0
    gpu: str = "H100"
    gpu_memory: int | None = None
    host_memory: int | None = None
    num_cpus: int | None = None
    peak_tflops: float | None = None
    bandwidth_gbs: float | None = None


def machines_of(wishes: Wishes) -> Machines:
    """The machines. ValueError for a GPU whose name is unknown and whose numbers are not all given."""
    common = {"num_nodes": wishes.num_nodes, "host_memory": wishes.host_memory, "num_cpus": wishes.num_cpus}
    flops = None if wishes.peak_tflops is None else wishes.peak_tflops * 1e12
    bandwidth = None if wishes.bandwidth_gbs is None else wishes.bandwidth_gbs * 1e9
    if not wishes.num_gpus:
        return Machines(**common, peak_flops=flops or _CPU_THREAD_FLOPS, bandwidth=bandwidth or _CPU_BANDWIDTH)
    device = device_named(wishes.gpu)
    if device is None and None in (flops, bandwidth, wishes.gpu_memory):
        raise ValueError(
            f"--gpu {wishes.gpu}: an unknown device; give --gpu-memory, --peak-tflops and --bandwidth, "
            "or a name such as H100, H200, A100, L40S"
        )
    return Machines(
        **common,
        num_gpus=wishes.num_gpus,
        gpu_memory=wishes.gpu_memory or (device.memory_bytes if device else None),
        peak_flops=flops or (device.peak_flops if device else 0.0),
        bandwidth=bandwidth or (device.bandwidth if device else 0.0),
    )


def machines_of_nodes(nodes: Sequence[Mapping[str, Any]], gpu: str) -> Machines:
    """The machines of a running cluster, as `ray.nodes()` tells of them."""
    facts = tuple(
        NodeFacts(
            num_gpus=int(node["Resources"].get("GPU", 0)),
            num_cpus=int(node["Resources"].get("CPU", 0)),
            labels=dict(node["Labels"]),
        )
        for node in nodes
        if node["Alive"]
    )
    num_gpus = sum(node.num_gpus for node in facts)
    smallest = min(node.num_cpus or 0 for node in facts)
    made = machines_of(Wishes(num_nodes=len(facts), num_gpus=num_gpus, gpu=gpu, num_cpus=smallest))
    return replace(made, nodes=facts)
