"""What a run reads - tokenizer, data, sizes - checked before any process or device is taken."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.folder import RunFolder
from configs.schema import BaseRun, DataConfig, MixConfig, ModelConfig, RlRun, Run, SamplesStage, SftRun
from experience.arithmetic import write_arithmetic
from experience.checks import GoldPolicy
from experience.countdown import write_countdown
from experience.dataset import Dataset, load_dataset
from experience.gym import write_gym
from experience.prompts import PromptTable, warn_of_overlap
from experience.ranked_arithmetic import write_ranked_arithmetic
from experience.records import Prompt
from experience.sequences import SequenceStream, TextSequences
from experience.tokenizer import load_tokenizer
from rewards.contract import RewardInput
from rewards.golds import needs_golds, unreadable_golds
from trainers.mixing import Mixer

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase


def data_sources(config: DataConfig, folder: RunFolder) -> tuple[str, str | None]:
    """Training and held-out data, as `load_dataset` takes them; generated problems are written first."""
    if config.train is not None:
        return config.train, config.eval
    if config.ranked_arithmetic is not None:
        train, held_out = write_ranked_arithmetic(config.ranked_arithmetic, folder.data)
    elif config.countdown is not None:
        train, held_out = write_countdown(config.countdown, folder.data)
    elif config.reasoning_gym is not None:
        train, held_out = write_gym(config.reasoning_gym, folder.data)
    else:
        assert config.arithmetic is not None
        train, held_out = write_arithmetic(config.arithmetic, folder.data)
    return str(train), str(held_out)


def trained_tokenizer(run: Run | SamplesStage) -> "PreTrainedTokenizerBase":
    """The tokenizer of the checkpoint that a run starts from."""
    assert run.model.path is not None
    return load_tokenizer(
        run.model.path, chat_template=run.data.chat_template, trust_remote_code=run.model.trust_remote_code
    )


def prompt_tables(
    run: RlRun | SamplesStage, tokenizer: "PreTrainedTokenizerBase", folder: RunFolder
) -> tuple[PromptTable, PromptTable | None]:
    """Training and held-out prompts; a warning when they overlap."""
    train_source, held_out_source = data_sources(run.data, folder)
    train_rows = load_dataset(train_source)
    train = PromptTable(train_rows, tokenizer, run.data, _gold_policy(run, train_rows, folder))
    if held_out_source is None:
        return train, None
    rows = load_dataset(held_out_source)
    held_out = PromptTable(rows, tokenizer, run.data, _gold_policy(run, rows, folder))
    warn_of_overlap(train, held_out)
    return train, held_out


def make_mixer(
    run: SftRun | RlRun, config: MixConfig | None, tokenizer: "PreTrainedTokenizerBase", folder: RunFolder
) -> Mixer | None:
    """The pre-training text of the recipe, in the order that the run's seed gives."""
    if config is None:
        return None
    check_length(run, "mix.max_sequence_tokens", config.max_sequence_tokens)
    train, _ = data_sources(config.data, folder)
    texts = TextSequences(load_dataset(train), tokenizer, config.data, config.max_sequence_tokens)
    return Mixer(
        SequenceStream(texts, seed=run.seed, shuffle=config.data.shuffle),
        count=config.sequences_per_update,
        coef=config.coef,
        num_ranks=run.trainer.num_data_ranks,
        tokens_per_micro_batch=run.trainer.tokens_per_micro_batch,
    )


def _gold_policy(run: RlRun | SamplesStage, dataset: Dataset, folder: RunFolder) -> GoldPolicy:
    """Golds are needed where a reward compares with them, and must then be such as it can read."""
    column = run.data.answer_column
    scorers = run.all_scorers if isinstance(run, RlRun) else run.rewards
    if column not in dataset.table.column_names or run.data.train is None:
        return GoldPolicy(required=needs_golds(scorers))
    golds = [str(gold) for gold in dataset.table[column].unique().to_pylist() if gold is not None]
    items = [RewardInput(prompt="", response="", answer=gold) for gold in golds]
    complaints = {golds[row]: reason for row, reason in unreadable_golds(items, scorers, run.reward_pool).items()}
    return GoldPolicy(
        required=needs_golds(scorers), check=complaints.get, report=folder.path / "unreadable_golds.jsonl"
    )


def reward_examples(prompts: Sequence[Prompt]) -> list[RewardInput]:
    """Real rows with a made-up response, on which every reward is tried before anything heavy starts."""
    return [
        RewardInput(
            prompt=prompt.text,
            response=f"It is {prompt.answer}.",
            answer=prompt.answer,
            messages=prompt.messages,
            columns=prompt.columns,
            num_prompt_tokens=len(prompt.tokens),
            num_response_tokens=1,
        )
        for prompt in prompts
    ]


def sequence_limit(run: RlRun) -> int:
    """Longest sequence of the run in tokens. ValueError when the model or a micro-batch can't hold it."""
    prompt, response = run.data.max_prompt_tokens, run.rollout.sampling.max_response_tokens
    keys = f"data.max_prompt_tokens={prompt} + rollout.sampling.max_response_tokens"
    check_length(run, keys, response, total=prompt + response)
    return prompt + response


def check_length(run: BaseRun, key: str, value: int, total: int | None = None) -> None:
    """ValueError when the model or a micro-batch can't hold a sequence of `total` tokens (else of `value`)."""
    total = value if total is None else total
    sizes = f"{key}={value}" + (f" = {total}" if total != value else "")
    limit = context_length(run.model)
    if limit is not None and total > limit:
        raise ValueError(f"{sizes} tokens, and the model takes {limit}; lower it")
    if total > run.trainer.tokens_per_micro_batch:
        raise ValueError(
            f"{sizes} tokens, more than trainer.tokens_per_micro_batch={run.trainer.tokens_per_micro_batch}; "
            f"set it to {total} or more"
        )


def context_length(model: ModelConfig) -> int | None:
    """The longest sequence that a model takes, in tokens; None where its config doesn't say."""
    if model.new is not None:
        return model.new.max_position_embeddings
    assert model.path is not None
    config = Path(model.path) / "config.json"
    return json.loads(config.read_text()).get("max_position_embeddings") if config.is_file() else None


def absolute(run: Run) -> Run:
    """The run with paths that mean the same in every process, whatever folder it works in."""
    path = run.model.path
    if path is None or not Path(path).exists():
        return run
    return run.model_copy(update={"model": run.model.model_copy(update={"path": str(Path(path).resolve())})})
