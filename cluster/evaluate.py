"""Evaluating checkpoints: rollout workers, and a reward model where one is asked; no trainer."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import ray
import torch
from safetensors import safe_open

from actors import weights
from actors.fleet import RolloutFleet
from actors.messages import RolloutSpec
from actors.placement import PlacementRefused
from cluster.cpus import scorer_cpus
from cluster.evaluation_inputs import EvaluationRequest, Examinee, examinees, judging
from cluster.inputs import reward_examples
from cluster.learned_rewards import LearnedRewards
from cluster.rl_specs import engine_threads
from cluster.session import ray_session
from configs.schema import RewardModelConfig, RewardPoolConfig, RewardSpec
from experience.records import Sampling, Weights
from rewards.contract import RewardError, RewardOutage
from rewards.marked import Reading, reading_of
from rewards.pool import RewardPool
from trainers.benchmark import Judges, Measured, respond, with_scores

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswers:
    """What one model answered to every data set. `checksum`: of the weights that were sampled from."""

    path: str
    checksum: str
    sets: Sequence[Measured]


def evaluate(request: EvaluationRequest) -> list[ModelAnswers]:
    """Sample and score held-out prompts. ValueError, in one line, for anything wrong in the request."""
    reading = reading_of(request.rewards[0].use, request.marker)
    if reading is None and request.num_samples > 1:
        logger.warning(
            "maj@k is left out: nothing says where the responses that %s judges mark their answers; give --marker",
            request.rewards[0].use,
        )
    return asyncio.run(_evaluate(request, reading, examinees(request)))


async def _evaluate(
    request: EvaluationRequest, reading: Reading | None, models: Sequence[Examinee]
) -> list[ModelAnswers]:
    learned = LearnedRewards(_scorer_specs(request), RewardModelConfig())
    for fleet in learned.fleets.values():
        fleet.check(())
    async with AsyncExitStack() as stack:
        judges = Judges(
            rewards=await _rewards(request, models[0], stack),
            reading=reading,
            same=_same_answers(request, reading, stack),
        )
        rollout = request.rollout
        num_cpus = max(
            rollout.num_workers * rollout.cores_per_worker, scorer_cpus(_scorer_specs(request), RewardModelConfig())
        )
        stack.enter_context(ray_session(request.cluster, num_cpus=num_cpus))
        answers = []
        for _, alike in groupby(models, key=lambda model: model.kind):
            async with _fleet(request, same_kind := list(alike)) as fleet:
                answers += [await _answers(request, judges, fleet, model) for model in same_kind]
        stack.push_async_callback(learned.close)
        use_gpu = ray.cluster_resources().get("GPU", 0) > 0
        return await scored(answers, learned, use_gpu=use_gpu) if request.reward_model else answers


async def scored(answers: Sequence[ModelAnswers], learned: LearnedRewards, *, use_gpu: bool) -> list[ModelAnswers]:
    """The same with the reward model's scores. It starts when the sampling is over: one device is enough for both.

    Where it fails, what was sampled is not lost: the answers are returned as they are, and an error is logged.
    """
    try:
        await learned.start(use_gpu=use_gpu)
        [scorer] = learned.fleets.values()
        return [replace(m, sets=[await with_scores(measured, scorer) for measured in m.sets]) for m in answers]
    except (RewardError, RewardOutage, PlacementRefused) as error:
        logger.error("the reward model failed, and its numbers are left out: %s", error)
        return list(answers)


async def _answers(request: EvaluationRequest, judges: Judges, fleet: RolloutFleet, model: Examinee) -> ModelAnswers:
    """One model's answers. All data sets are sampled at once, so that no worker idles at the end of each."""
    published = weights_on_disk(model.folder)
    await fleet.load(published)
    sets = await asyncio.gather(*(_measured(request, judges, fleet, model, name) for name in model.prompts))
    return ModelAnswers(path=model.path, checksum=published.checksum, sets=sets)


async def _measured(
    request: EvaluationRequest, judges: Judges, fleet: RolloutFleet, model: Examinee, name: str
) -> Measured:
    prompts, samplings = model.prompts[name], _samplings(request)
    parts = await asyncio.gather(*(respond(fleet, judges, prompts, sampling) for sampling in samplings.values()))
    return Measured(name=name, prompts=prompts, **dict(zip(samplings, parts, strict=True)))


def _samplings(request: EvaluationRequest) -> dict[str, Sampling]:
    """By kind of response, as `Measured` has them."""
    longest = request.rollout.sampling.max_response_tokens
    greedy = Sampling(num_samples=1, max_response_tokens=longest, temperature=0.0, seed=request.seed)
    found = {"greedy": greedy}
    if request.num_samples:
        temperature = request.rollout.sampling.temperature
        found["sampled"] = replace(greedy, num_samples=request.num_samples, temperature=temperature)
    if request.beam_width:
        found["beam"] = replace(greedy, beam_width=request.beam_width)
    return found


async def _rewards(request: EvaluationRequest, model: Examinee, stack: AsyncExitStack) -> RewardPool:
    """What judges responses, tried on two rows of every data set. RewardError where it can't judge them."""
    pool = RewardPool(judging(request), RewardPoolConfig())
    stack.callback(pool.close)
    first, *others = model.prompts
    pool.start(reward_examples(model.prompts[first][:2]))
    for name in others:
        for score in await pool.score(reward_examples(model.prompts[name][:2])):
            if score.status.is_failure:
                raise RewardError(f"{name}: a trial call of the reward on one of its rows failed: {score.detail}")
    return pool


def _same_answers(request: EvaluationRequest, reading: Reading | None, stack: AsyncExitStack) -> RewardPool | None:
    """Who says which answers are the same value; None where the same text alone counts, or nothing is sampled."""
    if reading is None or not reading.is_mathematical or request.num_samples < 2:
        return None
    spec = RewardSpec(use="same_answer", args={"is_whole": reading.marker != "raw"})
    pool = RewardPool((spec,), RewardPoolConfig())
    stack.callback(pool.close)
    pool.start()
    return pool


def _scorer_specs(request: EvaluationRequest) -> list[RewardSpec]:
    return (
        [] if request.reward_model is None else [RewardSpec(use=f"model:{request.reward_model}", name="reward_model")]
    )


@asynccontextmanager
async def _fleet(request: EvaluationRequest, models: Sequence[Examinee]) -> AsyncIterator[RolloutFleet]:
    """Rollout workers for models of one kind, without weights."""
    use_gpu = ray.cluster_resources().get("GPU", 0) > 0
    spec = RolloutSpec(
        model_path=str(models[0].folder),
        config=request.rollout,
        max_model_len=max(model.longest_sequence for model in models),
        stop_token_ids=models[0].stop_token_ids,
        use_gpu=use_gpu,
        threads=engine_threads(request.rollout, request.cluster, use_gpu=use_gpu),
    )
    fleet = RolloutFleet(spec)
    try:
        await fleet.start()
        yield fleet
    finally:
        await fleet.close()


def weights_on_disk(folder: Path) -> Weights:
    """A checkpoint's weights, published for rollout workers as version 0."""
    return weights.publish(0, _file_buckets(folder))


def _file_buckets(folder: Path) -> Iterator[Sequence[tuple[str, torch.Tensor]]]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            yield [(name, tensors.get_tensor(name)) for name in tensors.keys()]  # noqa: SIM118
