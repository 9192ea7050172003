"""The stages of a recipe as runs that can be planned before any of them has left a model."""

from collections.abc import Collection, Iterator
from pathlib import Path

from configs.schema import BaseRun, ModelConfig, RewardSpec, RlRun, Run
from configs.staged import StagedRun

_MODEL = "model:"


def planned_runs(staged: StagedRun, chosen: Collection[str]) -> Iterator[tuple[str, Run | None]]:
    """Name and run of each chosen stage, in order; None for one that trains nothing, which has no plan.

    A model that an earlier stage will leave has the sizes of the one that this stage starts from, which takes its place
    in the run. ValueError where a reward model's start is no checkpoint.
    """
    starts: dict[str, ModelConfig] = {}  # of the models that stages leave, by the folder
    for spec in staged.stages:
        run = spec.config
        if isinstance(run, BaseRun):
            model = _start(run.model, starts)
            starts[str(spec.outputs["model"])] = model
            if spec.name in chosen:
                yield spec.name, _with_starts(run.model_copy(update={"model": model}), spec.name, starts)
        elif spec.name in chosen:
            yield spec.name, None


def _start(model: ModelConfig, starts: dict[str, ModelConfig]) -> ModelConfig:
    source = _source(model.path, starts)
    return model if source is None else model.model_copy(update={"path": source.path, "new": source.new})


def _source(path: str | None, starts: dict[str, ModelConfig]) -> ModelConfig | None:
    """What a folder's model starts from; None for one that is there, or that no stage leaves."""
    return None if path is None or (Path(path) / "config.json").is_file() else starts.get(path)


def _with_starts(run: Run, name: str, starts: dict[str, ModelConfig]) -> Run:
    """With the critic's and the reward models' starts too."""
    if not isinstance(run, RlRun):
        return run
    critic = run.critic
    if source := _source(critic.path, starts):
        critic = critic.model_copy(update={"path": source.path})
    rewards = tuple(_reward(spec, name, starts) for spec in run.rewards)
    return run.model_copy(update={"critic": critic, "rewards": rewards})


def _reward(spec: RewardSpec, name: str, starts: dict[str, ModelConfig]) -> RewardSpec:
    source = _source(spec.model_path, starts)
    if source is None:
        return spec
    if source.path is None:
        raise ValueError(
            f"stage {name}: the sizes of {spec.use} are not known before it is trained, as it starts from model.new; "
            "run the stages before, or plan another one with --stage"
        )
    return spec.model_copy(update={"use": f"{_MODEL}{source.path}"})
