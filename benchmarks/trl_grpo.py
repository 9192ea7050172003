"""A recipe's GRPO as TRL's GRPOTrainer does it: `.venv-bench/bin/python benchmarks/trl_grpo.py WORK [--vllm]`.

WORK is the JSON of benchmarks/contest/work.py, for this environment has none of wutong's packages. With `--vllm` a
vLLM engine in this process samples (`vllm_mode="colocate"`), without it transformers does. A line of JSON for each
step goes to standard output; `seconds` runs from the end of the step before.
"""

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_CPU_KVCACHE_SPACE="1",
    TORCHDYNAMO_DISABLE="1",
    GOMP_SPINCOUNT="0",
    OMP_WAIT_POLICY="passive",
    OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "2"),
    HF_HUB_OFFLINE="1",
    GLOO_SOCKET_IFNAME="lo",
)

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

Work = dict[str, Any]


class Clock(TrainerCallback):
    """Seconds of a step by part, and what it earned; a line for each step."""

    def __init__(self) -> None:
        self.since = self.began = time.perf_counter()
        self.parts = {"generate": 0.0, "score": 0.0, "sync": 0.0}
        self.earned: list[float] = []
        self.lengths: list[int] = []

    def timed(self, part: str, function: Any) -> Any:
        """The function, whose seconds are added to a part."""

        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.parts[part] += time.perf_counter() - began

        call.__name__ = part
        return call

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """After the optimiser's step."""
        now = time.perf_counter()
        seconds = now - self.since
        line = {
            "step": state.global_step,
            "reward": sum(self.earned) / len(self.earned),
            "length": sum(self.lengths) / len(self.lengths),
            **self.parts,
            "train": seconds - sum(self.parts.values()),
            "seconds": seconds,
            "since_start": now - self.began,
        }
        print(json.dumps(line), flush=True)
        self.since, self.parts = now, dict.fromkeys(self.parts, 0.0)
        self.earned, self.lengths = [], []

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """The first step starts here."""
        self.since = time.perf_counter()


def config(work: Work, folder: str, uses_vllm: bool) -> GRPOConfig:
    """One optimiser step a batch, strictly on-policy, without a reference, nothing logged."""
    rows = work["rows_per_micro_batch"]
    return GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        seed=work["seed"],
        max_steps=len(work["learning_rates"]),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=work["prompts_per_step"] * work["group_size"] // rows,
        gradient_checkpointing=False,
        num_generations=work["group_size"],
        max_completion_length=work["max_response_tokens"],
        temperature=work["temperature"],
        generation_kwargs={"stop_token_ids": work["stop_token_ids"], "detokenize": False} if uses_vllm else None,
        use_vllm=uses_vllm,
        vllm_mode="colocate",
        vllm_max_model_length=work["max_prompt_tokens"] + work["max_response_tokens"],
        vllm_importance_sampling_correction=False,
        num_iterations=1,
        beta=0.0,
        loss_type="dapo",
        scale_rewards="group",
        max_grad_norm=work["max_grad_norm"],
        shuffle_dataset=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )


def optimizers(model: Any, work: Work) -> tuple[Any, Any]:
    """AdamW over all parameters, as the recipe has it, and the learning rate of each step."""
    rates = work["learning_rates"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, fused=True, **work["adamw"])
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[min(step, len(rates) - 1)])


def rule(clock: Clock) -> Any:
    """The reward function: 1 for the gold answer in the last box."""

    def score(completions: Sequence[str], answer: Sequence[str], completion_ids: Any, **named: Any) -> list[float]:
        boxes = [re.findall(r"\\boxed\{([^}]*)\}", text) for text in completions]
        rewards = [float(bool(box) and box[-1].strip() == gold) for box, gold in zip(boxes, answer, strict=True)]
        clock.earned += rewards
        clock.lengths += [len(tokens) for tokens in completion_ids]
        return rewards

    return clock.timed("score", score)


def problems(work: Work, tokenizer: Any) -> Dataset:
    """Prompts as texts in the order of the run; they must give the tokens that the recipe has."""
    found = tokenizer(text=work["prompts"])["input_ids"]
    assert found == work["prompt_tokens"], "the prompts have other tokens here"
    return Dataset.from_dict({"prompt": work["prompts"], "answer": work["answers"]})


def prepare_vllm() -> None:
    """What TRL's colocated engine needs here; TRL has no setting for it."""
    import vllm._custom_ops
    from trl.generation import vllm_generation

    # vLLM takes bfloat16 for a float32 model that says nothing; every contestant's engine here is uncompiled float32.
    vllm_generation.LLM = partial(vllm_generation.LLM, dtype="float32", enforce_eager=True)
    # TRL loads one parameter at a time, which oneDNN's packed weights would not see; plain linears do.
    vllm._custom_ops._supports_onednn = False


def main() -> None:
    """A line a step."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--vllm", action="store_true")
    asked = parser.parse_args()
    clock, work = Clock(), json.loads(asked.work.read_text())
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if asked.vllm:
        prepare_vllm()
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=work["model"],
            reward_funcs=rule(clock),
            args=config(work, folder, asked.vllm),
            train_dataset=problems(work, tokenizer),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.optimizer, trainer.lr_scheduler = optimizers(trainer.model, work)
        trainer._generate_single_turn = clock.timed("generate", trainer._generate_single_turn)
        trainer.train()


if __name__ == "__main__":
    main()
