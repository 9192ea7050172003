"""How long a rollout worker takes to start, to sample and to take new weights, against bare vLLM.

OMP_NUM_THREADS=1 python -m benchmarks.rollout [--prompts 64] [--samples 8] [--tokens 24] [--devices 1]
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from actors import weights
from actors.engine_environment import environment
from actors.fleet import RolloutFleet
from actors.messages import RolloutSpec
from configs.schema.model import TokenizerConfig
from configs.schema.rollout import RolloutConfig
from experience.records import Prompt, Sampling
from experience.tokenizer import build_tokenizer

SIZES: dict[str, dict[str, Any]] = {
    "1M": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "head_dim": 32},
    "100M": {"hidden_size": 768, "intermediate_size": 2560, "num_hidden_layers": 12, "head_dim": 64},
}
# Without seeds, which vLLM serves by one generator a sequence. Log-probs are asked for, as in training.
BARE = """
import os, sys, time, json
begin = time.monotonic()
from vllm import LLM, SamplingParams
prompts, samples, tokens, model = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
llm = LLM(model, dtype="float32", enforce_eager=True, max_model_len=128, distributed_executor_backend="uni",
          block_size=32, skip_tokenizer_init=True, max_num_seqs=512, logprobs_mode="processed_logprobs",
          async_scheduling=False)
params = SamplingParams(n=samples, temperature=1.0, max_tokens=tokens, logprobs=0, detokenize=False,
                        ignore_eos=True)
asked = [{"prompt_token_ids": [10 + i % 50 + j for j in range(12)]} for i in range(prompts)]
llm.generate(asked[:1], params, use_tqdm=False)
print("ready after", round(time.monotonic() - begin, 1), "s")
for _ in range(5):
    begin = time.monotonic()
    outputs = llm.generate(asked, params, use_tqdm=False)
    count = sum(len(sample.token_ids) for output in outputs for sample in output.outputs)
    print(f"bare LLM.generate: {count / (time.monotonic() - begin):.0f} tokens/s", flush=True)
os._exit(0)
"""


def make_policy(folder: Path, size: str) -> Qwen3ForCausalLM:
    """A policy with random weights in `folder`."""
    tokenizer = build_tokenizer(TokenizerConfig(), ())
    config = Qwen3Config(
        vocab_size=len(tokenizer) if size == "1M" else 16_000,
        num_attention_heads=SIZES[size]["hidden_size"] // SIZES[size]["head_dim"],
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        **SIZES[size],
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def spec_of(folder: Path, num_devices: int) -> RolloutSpec:
    """One worker; no token ends a response, so that every run samples the same number."""
    config = RolloutConfig(tensor_parallel_size=num_devices)
    return RolloutSpec(model_path=str(folder), config=config, max_model_len=128, stop_token_ids=())


async def measure(folder: Path, model: torch.nn.Module, args: argparse.Namespace) -> None:
    """Print the start's parts, the seconds of some loads, and tokens a second of some batches."""
    fleet = RolloutFleet(spec_of(folder, args.devices))
    begin = time.monotonic()
    await fleet.start()
    print(f"start {time.monotonic() - begin:.1f} s: {fleet.facts['rollout-0']}")
    for version in range(5):
        begin = time.monotonic()
        published = weights.publish(version, [list(model.named_parameters())])
        sent = time.monotonic()
        await fleet.load(published)
        print(f"publish {sent - begin:.3f} s, load {time.monotonic() - sent:.3f} s")
    sampling = Sampling(num_samples=args.samples, max_response_tokens=args.tokens, temperature=1.0, seed=0)
    for batch in range(5):
        prompts = [prompt_of(batch * args.prompts + at) for at in range(args.prompts)]
        begin = time.monotonic()
        groups = await asyncio.gather(*(fleet.generate(prompt, sampling) for prompt in prompts))
        count = sum(trajectory.num_response_tokens for group in groups for trajectory in group)
        print(f"fleet: {count / (time.monotonic() - begin):.0f} tokens/s", flush=True)
    await fleet.close()


def prompt_of(ordinal: int) -> Prompt:
    """A prompt of 12 tokens."""
    tokens = np.arange(12, dtype=np.int32) + 10 + ordinal % 50
    return Prompt(ordinal=ordinal, epoch=0, row=ordinal, tokens=tokens, text="")


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--devices", type=int, default=1, help="of the engine; bare vLLM has one")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["1M"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        for size in args.sizes:
            folder = Path(root) / size
            model = make_policy(folder, size)
            print(f"{size}: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")
            command = [sys.executable, "-c", BARE, *map(str, (args.prompts, args.samples, args.tokens, folder))]
            subprocess.run(command, env=dict(os.environ) | environment(spec_of(folder, 1)), check=True)
            ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
            asyncio.run(measure(folder, model, args))
            ray.shutdown()


if __name__ == "__main__":
    main()
