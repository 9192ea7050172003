"""Plans on paper: what is told before anything is started."""

import json
from pathlib import Path
from typing import Any

import pytest
import ray
from pydantic import TypeAdapter
from typer.testing import CliRunner

from cli.main import app
from cluster.plan import Plan, make_plan
from cluster.plan_machines import Wishes, machines_of
from cluster.plan_start import MARGIN, check_fits, plan_at_start
from cluster.plan_text import plan_json, plan_text
from configs.schema import Run
from tests.cluster.test_plan_sizes import PUBLISHED

GIB = 2**30
RECIPES = sorted(path for path in Path("configs").glob("*/*.yaml") if path.parent.name != "recipes")


def model_folder(folder: Path, name: str) -> str:
    path = folder / name
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    return str(path)


def planned(folder: Path, name: str, *, gpus: int = 8, nodes: int = 1, gpu: str = "H100", **sections: Any) -> Plan:
    model = {"path": model_folder(folder, name), "dtype": "bfloat16", **sections.pop("model", {})}
    rollout = {"dtype": "bfloat16", "sampling": {"max_response_tokens": 2048}, **sections.pop("rollout", {})}
    run = TypeAdapter(Run).validate_python(
        {
            "name": "paper",
            "stage": "rl",
            "model": model,
            "data": {"arithmetic": {}, "max_prompt_tokens": 1024},
            "num_steps": 10,
            "rewards": [{"use": "math"}],
            "rollout": rollout,
            "algorithm": {"name": "grpo", "kl_coef": 0},
            "trainer": {"tokens_per_micro_batch": 4096},
            **sections,
        }
    )
    return make_plan(run, machines_of(Wishes(num_gpus=gpus, num_nodes=nodes, gpu=gpu)))


def trainer(ranks: int, stage: int, **more: Any) -> dict[str, Any]:
    return {"num_ranks": ranks, "zero_stage": stage, "tokens_per_micro_batch": 4096, **more}


def test_engines_that_take_turns_with_ranks_have_their_gpus(tmp_path: Path) -> None:
    sections = {"trainer": trainer(8, 3), "rollout": {"num_workers": 8, "colocated": True}}
    plan = planned(tmp_path, "Qwen2.5-0.5B", gpus=8, **sections)
    places = {role: [(s.node, s.devices) for s in plan.seats if s.role == role] for role in ("policy", "rollout")}
    assert places["rollout"] == places["policy"] and len(set(places["policy"])) == 8
    assert not plan.problems
    sections["rollout"]["colocated"] = False
    assert any(
        "the run needs 16" in problem for problem in planned(tmp_path, "Qwen2.5-0.5B", gpus=8, **sections).problems
    )


CHECKPOINTED = {"gradient_checkpointing": True}
# name, GPUs, nodes, device, sections; all of them fit.
ON_PAPER: list[tuple[str, int, int, str, dict[str, Any]]] = [
    ("Qwen2.5-0.5B", 2, 1, "H100", {}),
    ("Qwen2.5-0.5B", 4, 1, "A100", {"algorithm": {"name": "ppo"}, "trainer": trainer(2, 1)}),
    ("Qwen2.5-7B", 8, 1, "H100", {"model": CHECKPOINTED, "trainer": trainer(4, 3), "rollout": {"num_workers": 4}}),
    ("Qwen3-8B", 16, 2, "H100", {"model": CHECKPOINTED, "trainer": trainer(8, 3), "rollout": {"num_workers": 8}}),
    ("Llama-3.1-8B", 16, 2, "H200", {"model": CHECKPOINTED, "trainer": trainer(8, 1), "rollout": {"num_workers": 8}}),
    (
        "Llama-3.1-8B",
        24,
        3,
        "H100",
        {
            "model": CHECKPOINTED,
            "algorithm": {"name": "ppo"},
            "trainer": trainer(8, 3),
            "critic": {"num_ranks": 8, "zero_stage": 3},
            "reference": {"num_ranks": 4, "zero_stage": 3},
            "rollout": {"num_workers": 4},
        },
    ),
    (
        "Qwen3-30B-A3B",
        32,
        4,
        "H100",
        {"model": CHECKPOINTED, "trainer": trainer(16, 3), "rollout": {"num_workers": 16}},
    ),
    (
        "Qwen2.5-32B",
        64,
        8,
        "H100",
        {
            "model": CHECKPOINTED,
            "trainer": trainer(32, 3),
            "rollout": {"num_workers": 16, "tensor_parallel_size": 2},
        },
    ),
    (
        "Llama-3.1-70B",
        128,
        16,
        "H100",
        {
            "model": CHECKPOINTED,
            "algorithm": {"name": "grpo"},
            "trainer": trainer(64, 3),
            "rollout": {"num_workers": 16, "tensor_parallel_size": 4},
        },
    ),
    (
        "Llama-3.1-70B",
        512,
        64,
        "H200",
        {
            "model": CHECKPOINTED,
            "trainer": trainer(256, 3),
            "rollout": {"num_workers": 64, "tensor_parallel_size": 4, "max_staleness": 2, "prompts_per_step": 1024},
        },
    ),
]


@pytest.mark.parametrize(("name", "gpus", "nodes", "gpu", "sections"), ON_PAPER)
def test_ten_runs_on_paper_fit_and_every_process_has_devices_of_its_own(
    tmp_path: Path, name: str, gpus: int, nodes: int, gpu: str, sections: dict[str, Any]
) -> None:
    plan = planned(tmp_path, name, gpus=gpus, nodes=nodes, gpu=gpu, **sections)
    assert plan.problems == ()
    taken = [(seat.node, device) for seat in plan.seats for device in seat.devices]
    assert len(taken) == len(set(taken)) == sum(role.role.num_processes * role.role.num_devices for role in plan.roles)
    assert max(node for node, _ in taken) < nodes
    assert all(role.peak.total <= (role.capacity or 0) for role in plan.roles)
    json.dumps(plan_json(plan))
    assert max(map(len, plan_text(plan).splitlines())) <= 130


def test_a_model_that_does_not_fit_is_told_with_settings_that_make_it_fit(tmp_path: Path) -> None:
    plan = planned(tmp_path, "Qwen2.5-7B", trainer=trainer(4, 1), rollout={"num_workers": 4})
    (problem,) = plan.problems
    assert problem.startswith("policy: policy: forward and backward needs ")
    settings = problem.partition("; set ")[2].split()
    assert settings[0] == "model.gradient_checkpointing=true"
    sections: dict[str, Any] = {"trainer": trainer(4, 1), "rollout": {"num_workers": 4}, "model": {}}
    for setting in settings:
        key, value = setting.split("=")
        section, name = key.split(".")
        sections[section][name] = {"true": True}.get(value, value)
    assert planned(tmp_path, "Qwen2.5-7B", **sections).problems == ()


def test_more_workers_than_gpus_are_told_with_their_key(tmp_path: Path) -> None:
    plan = planned(tmp_path, "Qwen2.5-0.5B", gpus=4, rollout={"num_workers": 5})
    assert plan.problems == ("rollout.num_workers=5: 3 of them find GPUs (the run needs 6); set rollout.num_workers=3",)


def test_an_engine_stays_on_one_node(tmp_path: Path) -> None:
    plan = planned(tmp_path, "Qwen2.5-7B", gpus=8, nodes=2, rollout={"tensor_parallel_size": 4})
    (engine,) = (seat for seat in plan.seats if seat.role == "rollout")
    assert (engine.node, engine.devices) == (1, (0, 1, 2, 3))


def test_adam_under_zero_takes_what_the_paper_says(tmp_path: Path) -> None:
    """arXiv:1910.02054, figure 1: 2 + 2 + 12 bytes a parameter, of which stage 1 divides the 12."""
    plan = planned(tmp_path, "Qwen2.5-7B", trainer=trainer(4, 1))
    parts = plan.roles[0].peak.parts
    parameters = plan.sizes.num_parameters
    assert parts["policy weights"] == 2 * parameters
    assert parts["policy optimiser"] == 12 * -(-parameters // 4)


def test_the_reference_and_the_critic_are_planned_where_the_row_needs_them(tmp_path: Path) -> None:
    def parts(**sections: Any) -> set[str]:
        return set(planned(tmp_path, "Qwen2.5-0.5B", **sections).roles[0].peak.parts)

    assert not any("reference" in part or "critic" in part for part in parts())
    assert "reference weights" in parts(algorithm={"name": "grpo", "kl_coef": 0.1})
    assert {"reference weights", "critic optimiser"} <= parts(algorithm={"name": "ppo"})
    lora = {"model": {"lora": {"rank": 8}}, "algorithm": {"name": "grpo", "kl_coef": 0.1}}
    assert "reference weights" not in parts(**lora)
    beside = planned(tmp_path, "Qwen2.5-0.5B", algorithm={"name": "ppo"}, critic={"num_ranks": 2})
    assert [role.role.name for role in beside.roles] == ["policy", "critic", "rollout"]


def test_offloading_moves_the_optimiser_to_the_host(tmp_path: Path) -> None:
    here = planned(tmp_path, "Qwen2.5-7B", trainer=trainer(4, 3)).roles[0]
    moved = planned(tmp_path, "Qwen2.5-7B", trainer=trainer(4, 3, offload_optimizer=True)).roles[0]
    assert "policy optimiser" not in moved.peak.parts
    assert moved.host_bytes - here.host_bytes >= here.peak.parts["policy optimiser"]


def test_staleness_lets_generating_and_training_overlap(tmp_path: Path) -> None:
    turns = planned(tmp_path, "Qwen2.5-7B").speeds
    overlap = planned(tmp_path, "Qwen2.5-7B", rollout={"max_staleness": 1}).speeds
    assert turns is not None
    assert overlap is not None
    assert turns.now.step == pytest.approx(turns.now.generating + turns.now.training + turns.now.syncing)
    assert overlap.now.step == pytest.approx(max(turns.now.generating, turns.now.training) + turns.now.syncing)


def test_an_unknown_gpu_needs_its_numbers() -> None:
    with pytest.raises(ValueError, match="--gpu X9: an unknown device; give --gpu-memory"):
        machines_of(Wishes(num_gpus=1, gpu="X9"))
    known = machines_of(Wishes(num_gpus=1, gpu="X9", gpu_memory=GIB, peak_tflops=2, bandwidth_gbs=3))
    assert (known.gpu_memory, known.peak_flops, known.bandwidth) == (GIB, 2e12, 3e9)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_recipe_is_planned(recipe: Path, tmp_path: Path) -> None:
    overrides = [] if "new:" in recipe.read_text() else [f"model.path={model_folder(tmp_path, 'Qwen2.5-0.5B')}"]
    answer = CliRunner().invoke(app, ["plan", str(recipe), *overrides, "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["roles"][0]["peak_bytes"] > found["parameters"]


def test_the_command_ends_with_2_where_something_does_not_fit(tmp_path: Path) -> None:
    model = f"model.path={model_folder(tmp_path, 'Llama-3.1-70B')}"
    answer = CliRunner().invoke(app, ["plan", "configs/arithmetic/grpo.yaml", model, "--gpus", "8"])
    assert answer.exit_code == 2
    assert "what does not fit" in answer.stdout


def test_an_engine_that_no_device_holds_is_advised_to_take_several(tmp_path: Path) -> None:
    def problem(model: str, **rollout: Any) -> str:
        sections = {"trainer": trainer(64, 3), "rollout": {"num_workers": 2, **rollout}}
        plan = planned(tmp_path, model, gpus=80, nodes=2, **sections)
        return "".join(problem for problem in plan.problems if problem.startswith("rollout: "))

    key, _, size = problem("Llama-3.1-70B").split()[-1].partition("=")
    assert key == "rollout.tensor_parallel_size"
    assert not problem("Llama-3.1-70B", tensor_parallel_size=int(size), gpu_memory_utilization=0.92)
    assert problem("Llama-3.1-70B", tensor_parallel_size=int(size) // 2, gpu_memory_utilization=0.92)


def test_an_engine_whose_heads_cant_be_shared_is_a_problem(tmp_path: Path) -> None:
    plan = planned(tmp_path, "Qwen2.5-7B", gpus=16, nodes=2, rollout={"tensor_parallel_size": 8})
    assert any("28 attention heads and 4 key-value heads" in problem for problem in plan.problems)
    assert not any("attention heads" in problem for problem in planned(tmp_path, "Qwen2.5-7B").problems)


def test_an_engine_on_two_devices_holds_its_weights_once_and_two_caches(tmp_path: Path) -> None:
    """On a CPU, where host memory is all there is; each device has its key in full."""
    hosts = {}
    for size in (1, 2):
        plan = planned(tmp_path, "Qwen2.5-0.5B", gpus=0, rollout={"tensor_parallel_size": size, "kv_cache_gib": 3})
        (engine,) = (role for role in plan.roles if role.role.name == "rollout")
        assert engine.peak.parts["weights"] == 2 * plan.sizes.num_parameters // size
        assert engine.role.threads == size
        hosts[size] = engine.host_bytes
    assert hosts[2] - hosts[1] == 3 * GIB


def test_a_running_cluster_says_itself_what_it_has(cluster: None, tmp_path: Path) -> None:
    (node,) = ray.nodes()
    recipe = ["plan", "configs/arithmetic/grpo.yaml", f"model.path={model_folder(tmp_path, 'Qwen2.5-0.5B')}", "--json"]
    joined = CliRunner().invoke(app, [*recipe, "--address", "auto"])
    told = CliRunner().invoke(app, [*recipe, "--cpus", str(int(node["Resources"]["CPU"]))])
    assert joined.exit_code == told.exit_code == 0
    plans = [json.loads(result.stdout) for result in (joined, told)]
    (facts,) = plans[0]["machines"].pop("nodes")
    assert facts == {"num_gpus": 0, "num_cpus": int(node["Resources"]["CPU"]), "labels": node["Labels"]}
    assert plans[1]["machines"].pop("nodes") == []
    assert plans[0] == plans[1]
    refused = CliRunner().invoke(app, [*recipe, "--address", "auto", "--cpus", "4", "--nodes", "2"])
    assert isinstance(refused.exception, ValueError)
    assert "--address has no use for --nodes, --cpus" in str(refused.exception)


def test_a_run_that_cant_fit_is_refused_with_the_key_to_change(tmp_path: Path) -> None:
    plan = planned(tmp_path, "Llama-3.1-70B", trainer=trainer(4, 1), rollout={"num_workers": 4})
    with pytest.raises(ValueError, match=r"does not fit: policy: .* GiB, .*model\.gradient_checkpointing=true"):
        check_fits(plan)


def test_a_run_that_is_short_by_less_than_plans_err_is_let_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sections: dict[str, Any] = {"trainer": trainer(4, 3), "rollout": {"num_workers": 4}}
    peak = planned(tmp_path, "Qwen2.5-0.5B", **sections).roles[0].peak.total
    run = planned(tmp_path, "Qwen2.5-0.5B", **sections).run
    check_fits(make_plan(run, machines_of(Wishes(num_gpus=8, gpu_memory=int(peak / MARGIN * 1.05)))))
    assert "may not fit: policy: " in caplog.text


def test_a_runs_folder_gets_its_plan_or_the_reason_why_there_is_none(tmp_path: Path) -> None:
    run = planned(tmp_path, "Qwen2.5-0.5B").run
    plan_at_start(run, tmp_path / "plan.txt")
    assert (tmp_path / "plan.txt").read_text().startswith("plan of paper (rl): qwen2, 494,032,768 parameters")
    (tmp_path / "Qwen2.5-0.5B" / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    plan_at_start(run, tmp_path / "plan.txt")
    assert "no plan: model.path=" in (tmp_path / "plan.txt").read_text()


def test_what_stays_of_a_rank_counts_beside_the_engine_on_its_gpu(tmp_path: Path) -> None:
    sections = {"trainer": trainer(8, 1), "rollout": {"num_workers": 8, "colocated": True}}
    engine = planned(tmp_path, "Qwen2.5-7B", model=CHECKPOINTED, **sections).roles[-1]
    assert engine.peak.parts["policy and critic beside it"] == 2 * 7_615_616_512 + GIB
    assert not engine.fits
    (problem,) = planned(tmp_path, "Qwen2.5-7B", model=CHECKPOINTED, **sections).problems
    assert problem.endswith("set rollout.gpu_memory_utilization=0.8")


def test_the_speed_of_engines_and_ranks_on_the_same_gpus_is_that_of_turns(tmp_path: Path) -> None:
    sections = {"trainer": trainer(8, 3), "rollout": {"num_workers": 8, "colocated": True}}
    plan = planned(tmp_path, "Qwen2.5-7B", model=CHECKPOINTED, **sections)
    assert plan.speeds is not None and plan.speeds.now == plan.speeds.colocated
    assert plan.speeds.now.num_devices == 8
    assert [speed.num_devices for speed in plan.speeds.more_workers] == [16, 24]
    assert plan_text(plan).count("taking turns") == 1
