"""What a recipe's GRPO has to do, as plain JSON for a contestant that has none of wutong's packages."""

import tempfile
from collections.abc import Sequence
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cluster.folder import RunFolder
from cluster.inputs import prompt_tables
from configs.schema import RlRun
from experience.prompts import PromptStream
from experience.records import Prompt
from experience.tokenizer import stop_token_ids
from trainers.schedule import learning_rate


def work_of(run: RlRun) -> dict[str, Any]:
    """Prompts of all steps in order, answers, lengths, learning rates; `rows_per_micro_batch` in samples."""
    tokenizer = AutoTokenizer.from_pretrained(str(run.model.path))
    rollout, optimizer = run.rollout, run.optimizer
    with tempfile.TemporaryDirectory() as folder:
        own = run.model_copy(update={"output_dir": folder})
        stream = PromptStream(prompt_tables(own, tokenizer, RunFolder(own))[0], seed=run.seed)
        prompts = stream.take(rollout.prompts_per_step * run.num_steps)
    tokens = [prompt.tokens.tolist() for prompt in prompts]
    return {
        "model": str(run.model.path),
        "prompts": [tokenizer.decode(each) for each in tokens],
        "prompt_tokens": tokens,
        "answers": [prompt.answer for prompt in prompts],
        "prompts_per_step": rollout.prompts_per_step,
        "group_size": rollout.group_size,
        "max_prompt_tokens": run.data.max_prompt_tokens,
        "max_response_tokens": rollout.sampling.max_response_tokens,
        "temperature": rollout.sampling.temperature,
        "stop_token_ids": list(stop_token_ids(tokenizer)),
        "learning_rates": [learning_rate(optimizer, step, run.num_steps) for step in range(run.num_steps)],
        "adamw": {
            "betas": [optimizer.beta1, optimizer.beta2],
            "eps": optimizer.epsilon,
            "weight_decay": optimizer.weight_decay,
        },
        "max_grad_norm": optimizer.max_grad_norm,
        "rows_per_micro_batch": rows_per_micro_batch(
            rollout.prompts_per_step * rollout.group_size,
            max(map(len, tokens)) + min(longest_response(prompts, tokenizer), rollout.sampling.max_response_tokens),
            run.trainer.tokens_per_micro_batch,
        ),
        "seed": run.seed,
    }


def longest_response(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest response that the data set shows, with its end; what a policy after its SFT answers."""
    return 1 + max(len(tokenizer(str(prompt.columns["response"])).input_ids) for prompt in prompts)


def rows_per_micro_batch(num_samples: int, longest: int, limit: int) -> int:
    """The largest share of the samples, by halving, that fits into `limit` tokens when all are `longest`."""
    rows = num_samples
    while rows % 2 == 0 and rows * longest > limit:
        rows //= 2
    return rows
