"""`wutong plan`: what a recipe takes, before anything is started."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cluster.plan_machines import Machines, Wishes, machines_of, machines_of_nodes, parse_bytes


def plan(
    recipe: Annotated[Path, typer.Argument(help="a YAML file; configs/ has examples")],
    overrides: Annotated[list[str] | None, typer.Argument(help="settings to change, as dotted.key=value")] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=0, help="GPUs of all nodes; 0: a plan for CPUs")] = 0,
    gpu: Annotated[str, typer.Option("--gpu", help="which, for its memory and speed: H100, H200, A100 ...")] = "H100",
    gpu_memory: Annotated[str | None, typer.Option("--gpu-memory", help="of one GPU: 80GiB; none: by its name")] = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="machines that share the GPUs equally")] = 1,
    cpus: Annotated[int | None, typer.Option("--cpus", min=1, help="CPU threads of a node")] = None,
    host_memory: Annotated[str | None, typer.Option("--host-memory", help="of a node: 512GiB")] = None,
    peak_tflops: Annotated[float | None, typer.Option("--peak-tflops", help="of a GPU, or of a CPU thread")] = None,
    bandwidth: Annotated[float | None, typer.Option("--bandwidth", help="of a device's memory, in GB/s")] = None,
    mfu: Annotated[float, typer.Option("--mfu", help="share of the peak that training reaches")] = 0.4,
    address: Annotated[str | None, typer.Option("--address", help="plan for the nodes of this Ray cluster")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print who gets which device, the memory of each process, what a step takes, and what does not fit.

    Only the model's config.json is needed. Exit code 2: something does not fit.
    """
    from cluster.plan import make_plan
    from cluster.plan_speed import Assumptions
    from cluster.plan_text import plan_json, plan_text
    from configs.load import load_run

    run = load_run(recipe, overrides or [])
    if address is not None:
        told = {"--gpus": gpus, "--nodes": nodes != 1, "--gpu-memory": gpu_memory, "--cpus": cpus}
        told |= {"--host-memory": host_memory, "--peak-tflops": peak_tflops, "--bandwidth": bandwidth}
        machines = _machines_at(address, gpu, [option for option, value in told.items() if value])
    else:
        machines = machines_of(
            Wishes(
                num_nodes=nodes,
                num_gpus=gpus,
                gpu=gpu,
                gpu_memory=None if gpu_memory is None else parse_bytes(gpu_memory, "--gpu-memory"),
                host_memory=None if host_memory is None else parse_bytes(host_memory, "--host-memory"),
                num_cpus=cpus,
                peak_tflops=peak_tflops,
                bandwidth_gbs=bandwidth,
            )
        )
    made = make_plan(run, machines, Assumptions(mfu=mfu))
    print(json.dumps(plan_json(made), indent=1) if as_json else plan_text(made), end="\n" if as_json else "")
    if made.problems:
        raise typer.Exit(2)


def _machines_at(address: str, gpu: str, without_effect: Sequence[str]) -> Machines:
    if without_effect:
        raise ValueError(
            f"--address has no use for {', '.join(without_effect)}: the cluster's nodes say what they have; "
            "--gpu names their GPUs"
        )
    import ray

    from cluster.session import ray_session
    from configs.schema import ClusterConfig

    with ray_session(ClusterConfig(address=address), num_cpus=1):
        return machines_of_nodes([node["Resources"] for node in ray.nodes() if node["Alive"]], gpu)
