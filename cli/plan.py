"""`wutong plan`: what a recipe takes, before anything is started."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.sizes import parse_bytes
from cli.trust import InsecureCluster
from cluster.plan_machines import Machines, Wishes, machines_of, machines_of_nodes
from configs.schema import ClusterConfig

if TYPE_CHECKING:
    from configs.schema import Run


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
    stage: Annotated[str | None, typer.Option("--stage", help="of a recipe of stages this one; none: all")] = None,
    address: Annotated[str | None, typer.Option("--address", help="plan for the nodes of this Ray cluster")] = None,
    insecure_cluster: InsecureCluster = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print who gets which device, the memory of each process, what a step takes, and what does not fit.

    Of a recipe of stages, for each stage that trains.

    Only the model's config.json is needed. Exit code 2: something does not fit.
    """
    from cluster.plan import make_plan
    from cluster.plan_speed import Assumptions
    from cluster.plan_text import plan_json, plan_text

    runs = _runs(recipe, overrides or [], stage)
    if address is not None:
        told = {"--gpus": gpus, "--nodes": nodes != 1, "--gpu-memory": gpu_memory, "--cpus": cpus}
        told |= {"--host-memory": host_memory, "--peak-tflops": peak_tflops, "--bandwidth": bandwidth}
        cluster = ClusterConfig(address=address, insecure=insecure_cluster)
        machines = _machines_at(cluster, gpu, [option for option, value in told.items() if value])
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
    plans = {name: run and make_plan(run, machines, Assumptions(mfu=mfu)) for name, run in runs.items()}
    if as_json:
        found = {name: made and plan_json(made) for name, made in plans.items()}
        print(json.dumps(found.get(None, found), indent=1))
    else:
        print(
            "\n".join(plan_text(made) if made else f"{name}: trains nothing\n" for name, made in plans.items()), end=""
        )
    if any(made and made.problems for made in plans.values()):
        raise typer.Exit(2)


def _runs(recipe: Path, overrides: Sequence[str], stage: str | None) -> "dict[str | None, Run | None]":
    """The run of a recipe, under None; or those of its stages by name, None for what trains nothing."""
    from cluster.plan_stages import planned_runs
    from configs.load import load_run
    from configs.staged import is_staged, load_staged

    if not is_staged(recipe):
        if stage is not None:
            raise ValueError(f"--stage {stage}: {recipe} is a recipe of a single stage; leave it out")
        return {None: load_run(recipe, overrides)}
    staged = load_staged(recipe, overrides)
    names = [spec.name for spec in staged.stages]
    if stage is not None and stage not in names:
        raise ValueError(f"--stage {stage}: {recipe} has no such stage; choose one of {', '.join(names)}")
    return dict(planned_runs(staged, names if stage is None else [stage]))


def _machines_at(cluster: ClusterConfig, gpu: str, without_effect: Sequence[str]) -> Machines:
    if without_effect:
        raise ValueError(
            f"--address has no use for {', '.join(without_effect)}: the cluster's nodes say what they have; "
            "--gpu names their GPUs"
        )
    import ray

    from cluster.session import ray_session

    with ray_session(cluster, num_cpus=1):
        return machines_of_nodes(ray.nodes(), gpu)
