"""The work of one stage of `wutong run`, in its own process."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from actors.names import naming
from cluster.control import write_json
from cluster.doctor import Doctor
from cluster.evaluate import evaluate
from cluster.evaluation_inputs import EvaluationRequest
from cluster.evaluation_results import results, write_results
from cluster.exporting import export
from cluster.folder import RunFolder
from cluster.inputs import data_sources
from cluster.launch import launch
from cluster.run_log import kept_log
from cluster.sampled_stages import preferences, rejection_sampling
from cluster.signals import raised
from cluster.stage_numbers import number_of_evaluation, number_of_run
from cluster.stage_records import OUTCOME
from cluster.stopping import Stopped
from configs.schema import BaseRun, DataConfig, EvaluateStage, Run, Stage
from metrics.waits import watched_by
from trainers import checkpoint


def work(stage: Stage, *, id_: str, resume: bool) -> bool:
    """Do the stage to its end; False when it was stopped before, to be resumed. ValueError for what is wrong in it.

    `id_` is noted with what came of it. `resume`: it was begun before.
    """
    folder = RunFolder(stage)
    if isinstance(stage, BaseRun):
        number = _train(stage, folder, resume=resume)
    else:
        with _alone(stage, folder):
            number = _DOES[stage.stage](stage, folder)
    if number is None:
        return False
    write_json(folder.path / OUTCOME, {"id": id_, "number": number})
    return True


def _train(run: Run, folder: RunFolder, *, resume: bool) -> str | None:
    has_begun = folder.metrics.exists() or bool(checkpoint.all_checkpoints(folder.checkpoints))
    outcome = launch(run, resume=resume and has_begun)
    return number_of_run(folder.metrics) if outcome.is_finished else None


@contextlib.contextmanager
def _alone(stage: Stage, folder: RunFolder) -> Iterator[None]:
    """What `launch` has around a stage that trains."""
    with folder.opened(resume=True), kept_log(folder.log) as log:
        log.note(f"begun in {folder}")
        hung = watched_by(Doctor(folder.path).report, stage.hang_timeout_seconds)
        with raised(Stopped), naming(stage.name), hung:
            yield
        log.note("finished")


def _evaluate(stage: EvaluateStage, folder: RunFolder) -> str:
    request = EvaluationRequest(
        models=(stage.model,) if stage.against is None else (stage.model, stage.against),
        data=(held_out_data(stage.data, folder),),
        rollout=stage.rollout,
        rewards=stage.rewards,
        num_prompts=stage.num_prompts,
        num_samples=stage.num_samples,
        beam_width=stage.beam_width,
        seed=stage.seed,
        cluster=stage.cluster,
    )
    answers = evaluate(request)
    document = results(request, answers)
    write_results(folder.path, document, answers)
    return number_of_evaluation(document)


def held_out_data(data: DataConfig, folder: RunFolder) -> DataConfig:
    """The held-out set as a data set of its own."""
    train, held_out = data_sources(data, folder)
    plain = {name: getattr(data, name) for name in DataConfig.model_fields if name.endswith("_column")}
    rest = {name: getattr(data, name) for name in ("system_prompt", "chat_template", "max_prompt_tokens",
                                                   "long_prompts", "missing_values")}  # fmt: skip
    return DataConfig(train=held_out or train, **plain, **rest)


_DOES: Mapping[str, Callable[..., str]] = {
    "preferences": preferences,
    "rejection_sampling": rejection_sampling,
    "evaluate": _evaluate,
    "export": export,
}
