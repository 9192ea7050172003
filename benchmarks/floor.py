"""The floor of a GRPO step: one plain process with vLLM inside, weights copied from model to model. No Ray, no ZeRO.

    python -m benchmarks.floor RECIPE [key=value ...]

It does the work of a recipe that is strictly on-policy, without a reference and with one mini-batch, as a person would
write it: problems, model, optimiser, batch and length are the recipe's; answers are compared as text. A line of JSON
for each step goes to standard output.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_CPU_KVCACHE_SPACE="1",
    TORCHDYNAMO_DISABLE="1",
    GOMP_SPINCOUNT="0",
    OMP_WAIT_POLICY="passive",
    OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "2"),
)

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm import LLM, SamplingParams

from cluster.folder import RunFolder
from cluster.inputs import prompt_tables
from configs.load import load_run
from configs.schema import RlRun
from experience.prompts import PromptStream
from experience.records import Prompt
from experience.tokenizer import stop_token_ids
from trainers.schedule import learning_rate

Sample = tuple[list[int], int, float]  # tokens, those of the prompt, advantage


class Floor:
    """Everything in one process."""

    def __init__(self, run: RlRun) -> None:
        self.run, path = run, str(run.model.path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        self.tokenizer, self.stops = tokenizer, list(stop_token_ids(tokenizer))
        self.prompts = PromptStream(prompt_tables(run, tokenizer, RunFolder(run))[0], seed=run.seed)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        longest = run.data.max_prompt_tokens + run.rollout.sampling.max_response_tokens
        self.engine = LLM(
            path,
            dtype="float32",
            enforce_eager=True,
            max_model_len=longest,
            max_num_seqs=run.rollout.max_running_sequences,
            skip_tokenizer_init=True,
            generation_config="vllm",
        )
        config = run.optimizer
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, number: int) -> dict[str, float]:
        """One optimiser step; seconds by part, and what was earned."""
        began = time.perf_counter()
        prompts = self.prompts.take(self.run.rollout.prompts_per_step)
        groups = self.generate(prompts, number)
        generated = time.perf_counter()
        rewards = [[self.reward(prompt, each) for each in group] for prompt, group in zip(prompts, groups, strict=True)]
        scored = time.perf_counter()
        samples = list(samples_of(prompts, groups, torch.tensor(rewards)))
        self.update(samples, number)
        trained = time.perf_counter()
        self.copy_weights()
        ended = time.perf_counter()
        return {
            "step": number + 1,
            "reward": float(torch.tensor(rewards).mean()),
            "length": sum(len(each) for group in groups for each in group) / sum(map(len, groups)),
            "generate": generated - began,
            "score": scored - generated,
            "train": trained - scored,
            "sync": ended - trained,
            "seconds": ended - began,
        }

    def generate(self, prompts: Sequence[Prompt], number: int) -> list[list[list[int]]]:
        """Response tokens by prompt and sample."""
        sampling = self.run.rollout.sampling
        params = SamplingParams(
            n=self.run.rollout.group_size,
            temperature=sampling.temperature,
            max_tokens=sampling.max_response_tokens,
            stop_token_ids=self.stops,
            detokenize=False,
        )
        asked: Any = [{"prompt_token_ids": prompt.tokens.tolist()} for prompt in prompts]
        outputs = self.engine.generate(asked, params, use_tqdm=False)
        return [[list(sample.token_ids) for sample in output.outputs] for output in outputs]

    def reward(self, prompt: Prompt, tokens: Sequence[int]) -> float:
        """1 for the gold answer in the last box."""
        found = re.findall(r"\\boxed\{([^}]*)\}", self.tokenizer.decode(tokens, skip_special_tokens=True))
        return float(bool(found) and found[-1].strip() == prompt.answer)

    def update(self, samples: Sequence[Sample], number: int) -> None:
        """Policy gradient with group-relative advantages, mean over all response tokens."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.run.optimizer, number, self.run.num_steps)
        total = sum(len(tokens) - start for tokens, start, _ in samples)
        for batch in micro_batches(samples, self.run.trainer.tokens_per_micro_batch):
            tokens, is_token, mask, advantages = padded(batch)
            logits = self.model(input_ids=tokens, attention_mask=is_token).logits[:, :-1]
            logprobs = -cross_entropy(logits[mask], tokens[:, 1:][mask], reduction="none")
            ratio = (logprobs - logprobs.detach()).exp()
            (-(ratio * advantages[:, None].expand_as(mask)[mask]).sum() / total).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.run.optimizer.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def copy_weights(self) -> None:
        """Into the engine's model, tensor by tensor."""
        core: Any = self.engine.llm_engine.engine_core
        runner = core.engine_core.model_executor.driver_worker.worker.model_runner
        runner.reload_weights(
            weights_iterator=((name, value.detach()) for name, value in self.model.named_parameters())
        )
        self.engine.reset_prefix_cache()


def samples_of(prompts: Sequence[Prompt], groups: Sequence[Sequence[list[int]]], rewards: Tensor) -> Iterator[Sample]:
    """Each sample with (reward - mean) / deviation of its group. [P, N] rewards."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    advantages = centred / (rewards.std(dim=1, keepdim=True) + 1e-6)
    for prompt, group, row in zip(prompts, groups, advantages.tolist(), strict=True):
        for tokens, advantage in zip(group, row, strict=True):
            if advantage:  # equal groups have no gradient
                yield [*prompt.tokens.tolist(), *tokens], len(prompt.tokens), advantage


def micro_batches(samples: Sequence[Sample], limit: int) -> Iterator[list[Sample]]:
    """Of like length, so that little is padded; at most `limit` tokens each with their padding."""
    batch: list[Sample] = []
    for sample in sorted(samples, key=lambda each: len(each[0])):
        if batch and (len(batch) + 1) * len(sample[0]) > limit:
            yield batch
            batch = []
        batch.append(sample)
    yield batch


def padded(batch: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[B, T] tokens, [B, T] which are no padding, [B, T - 1] which of the next ones were sampled, [B] advantages."""
    longest = max(len(tokens) for tokens, _, _ in batch)
    tokens = torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens, _, _ in batch])
    places = torch.arange(longest)
    starts = torch.tensor([start for _, start, _ in batch])[:, None]
    is_token = places < torch.tensor([len(tokens) for tokens, _, _ in batch])[:, None]
    sampled = (is_token & (places >= starts))[:, 1:]
    return tokens, is_token.long(), sampled, torch.tensor([advantage for _, _, advantage in batch])


def main() -> None:
    """A line a step."""
    began = time.perf_counter()
    run = load_run(sys.argv[1], sys.argv[2:])
    assert isinstance(run, RlRun)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(run.seed)
    with tempfile.TemporaryDirectory() as folder:
        floor = Floor(run.model_copy(update={"output_dir": folder}))
        for number in range(run.num_steps):
            line = floor.step(number) | {"since_start": time.perf_counter() - began}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
