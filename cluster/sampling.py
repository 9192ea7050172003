"""Sampling a checkpoint and scoring what it says, part by part: a kill costs no more than the part under way."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import ray

from actors.fleet import RolloutFleet
from cluster import rl_specs
from cluster.cpus import scorer_cpus
from cluster.evaluate import weights_on_disk
from cluster.folder import RunFolder
from cluster.inputs import context_length, prompt_tables, reward_examples, trained_tokenizer
from cluster.learned_rewards import LearnedRewards
from cluster.session import ray_session
from configs.schema import RewardSpec, SamplesStage
from experience.parquet import read_parquet, write_parquet
from experience.prompts import PromptStream, PromptTable, eval_prompts
from experience.records import Prompt, Sampling
from experience.sampled_data import Sample, SampledPrompt
from experience.tokenizer import stop_token_ids
from metrics import activity
from metrics.waits import waited
from rewards.contract import RewardInput, Score
from rewards.health import check_failures
from rewards.pool import RewardPool
from trainers.groups import reward_input, verdict
from trainers.model_files import check_model

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_SCHEMA = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("row", pa.int64()),
        ("response", pa.string()),
        ("reward", pa.float64()),
        ("parts", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Prompts of one split, and the table that they are rows of."""

    name: str
    table: PromptTable
    prompts: Sequence[Prompt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What was read and checked before anything heavy starts."""

    tokenizer: "PreTrainedTokenizerBase"
    sources: Sequence[Source]
    max_sequence_tokens: int


def read_inputs(stage: SamplesStage, folder: RunFolder, *, num_eval_prompts: int = 0) -> Inputs:
    """ValueError for what is wrong in the stage."""
    check_model(stage.model, tensor_parallel_size=stage.rollout.tensor_parallel_size)
    tokenizer = trained_tokenizer(stage)
    train, held_out = prompt_tables(stage, tokenizer, folder)
    count = min(stage.num_prompts, len(train))
    stream = PromptStream(train, seed=stage.seed, shuffle=stage.data.shuffle)
    sources = [Source(name="train", table=train, prompts=stream.at(0, count))]
    if num_eval_prompts:
        if held_out is None:
            raise ValueError(f"num_eval_prompts={num_eval_prompts}: there are no held-out prompts; set data.eval")
        sources.append(Source(name="eval", table=held_out, prompts=eval_prompts(held_out, num_eval_prompts)))
    return Inputs(tokenizer=tokenizer, sources=sources, max_sequence_tokens=_longest(stage))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some prompts of a source, and the file of their samples."""

    source: Source
    prompts: Sequence[Prompt]
    file: Path


def parts_of(stage: SamplesStage, inputs: Inputs, folder: Path) -> list[Part]:
    """All prompts, in parts whose files are in `folder`, which is made."""
    folder.mkdir(exist_ok=True)
    size = stage.prompts_per_part
    return [
        Part(source=source, prompts=source.prompts[at : at + size], file=folder / f"{source.name}-{at:08d}.parquet")
        for source in inputs.sources
        for at in range(0, len(source.prompts), size)
    ]


async def sample(
    stage: SamplesStage, inputs: Inputs, parts: Sequence[Part], rewards: Sequence[RewardSpec], num_samples: int
) -> None:
    """Sample and score the parts, and write their files. RewardError when too many can't be scored."""
    sampling = Sampling(
        num_samples=num_samples,
        max_response_tokens=stage.rollout.sampling.max_response_tokens,
        temperature=stage.rollout.sampling.temperature,
        seed=stage.seed,
    )
    async with _started(stage, inputs, rewards) as (fleet, pool):
        for number, part in enumerate(parts, start=1):
            table = await _sampled(fleet, pool, part.prompts, sampling, stage.reward_pool.max_error_rate)
            await waited(asyncio.to_thread(write_parquet, table, part.file), what=part.file.name, owner="disk")
            logger.info("%s: part %d of %d", stage.name, number, len(parts))


def read_samples(part: Part) -> list[SampledPrompt]:
    """What was sampled, prompt by prompt."""
    samples: dict[int, list[Sample]] = {prompt.ordinal: [] for prompt in part.prompts}
    for row in read_parquet(part.file).to_pylist():
        parts = json.loads(row["parts"])
        samples[row["ordinal"]].append(Sample(response=row["response"], reward=row["reward"], parts=parts))
    texts = part.source.table.texts([prompt.row for prompt in part.prompts])
    return [
        SampledPrompt(ordinal=p.ordinal, prompt=text, answer=p.answer, samples=tuple(samples[p.ordinal]))
        for p, text in zip(part.prompts, texts, strict=True)
    ]


@asynccontextmanager
async def _started(
    stage: SamplesStage, inputs: Inputs, rewards: Sequence[RewardSpec]
) -> AsyncIterator[tuple[RolloutFleet, RewardPool]]:
    """Rollout workers that hold the checkpoint, and the rewards."""
    assert stage.model.path is not None
    async with AsyncExitStack() as stack:
        learned = LearnedRewards(rewards, stage.reward_model)
        pool = RewardPool(rewards, stage.reward_pool, scorers=learned.fleets)
        stack.callback(pool.close)
        pool.start(reward_examples(inputs.sources[0].prompts[:2]))
        cpus = stage.rollout.num_workers * stage.rollout.cores_per_worker + scorer_cpus(rewards, stage.reward_model)
        stack.enter_context(ray_session(stage.cluster, num_cpus=cpus))
        use_gpu = ray.cluster_resources().get("GPU", 0) > 0
        fleet = RolloutFleet(
            rl_specs.rollout_spec(
                stage,
                max_sequence_tokens=inputs.max_sequence_tokens,
                stop_token_ids=stop_token_ids(inputs.tokenizer),
                use_gpu=use_gpu,
            )
        )
        stack.push_async_callback(fleet.close)
        stack.push_async_callback(learned.close)
        await asyncio.gather(fleet.start(), learned.start(use_gpu=use_gpu))
        await fleet.load(weights_on_disk(Path(stage.model.path)))
        yield fleet, pool


async def _sampled(
    fleet: RolloutFleet, pool: RewardPool, prompts: Sequence[Prompt], sampling: Sampling, max_error_rate: float
) -> pa.Table:
    """One row a sample, in the order of the prompts."""

    async def one(prompt: Prompt) -> list[tuple[RewardInput, Score]]:
        trajectories = await fleet.generate(prompt, sampling)
        items = [reward_input(trajectory) for trajectory in trajectories]
        scores = await pool.score(items)
        activity.note("sampling")
        return [(item, verdict(t, score)) for item, t, score in zip(items, trajectories, scores, strict=True)]

    work = asyncio.gather(*(one(prompt) for prompt in prompts))
    groups = await waited(work, what="samples", owner="sampling and scoring", progress=activity.count)
    flat = [pair for group in groups for pair in group]
    check_failures([item for item, _ in flat], [score for _, score in flat], max_error_rate)
    rows = [
        {
            "ordinal": prompt.ordinal,
            "row": prompt.row,
            "response": item.response,
            "reward": score.value,
            "parts": json.dumps(dict(score.parts)),
        }
        for prompt, group in zip(prompts, groups, strict=True)
        for item, score in group
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _longest(stage: SamplesStage) -> int:
    """Tokens of the longest sequence. ValueError when the model can't hold it."""
    prompt, response = stage.data.max_prompt_tokens, stage.rollout.sampling.max_response_tokens
    limit = context_length(stage.model)
    if limit is not None and prompt + response > limit:
        raise ValueError(
            f"data.max_prompt_tokens={prompt} + rollout.sampling.max_response_tokens={response} = {prompt + response} "
            f"tokens, and the model takes {limit}; lower one of them"
        )
    return prompt + response
