"""What real DeepSpeed ranks take at their peak, above their imports: what `benchmarks.plan` holds plans against."""

import gc
import pickle
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from algorithms.table import resolve
from configs.schema import AlgorithmConfig, ModelConfig, NewModelConfig, OptimizerConfig, TrainerConfig
from experience.packing import plan_mini_batches
from experience.records import Batch, Item, TokenBlock
from trainers.learner import LearnerSpec
from trainers.policy import PolicyObjective

RESPONSE_TOKENS = 192
PROMPT_TOKENS = 64
VOCAB_SIZE = 8000

MODEL = NewModelConfig(
    hidden_size=512, intermediate_size=1536, num_layers=8, num_heads=8, num_kv_heads=4, tie_word_embeddings=True
)
_TINY = MODEL.model_copy(update={"hidden_size": 64, "intermediate_size": 64, "num_layers": 1})
_TINY_FOLDER = "tiny"
SMALL = MODEL.model_copy(update={"hidden_size": 256, "intermediate_size": 1024, "num_layers": 6})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One configuration to measure; `budget` is trainer.tokens_per_micro_batch."""

    name: str
    model: NewModelConfig = MODEL
    zero_stage: int = 1
    num_ranks: int = 2
    kl_coef: float = 0.0
    checkpointing: bool = False
    budget: int = 1024
    num_sequences: int = 16


CASES = (
    Case(name="ZeRO-1"),
    Case(name="ZeRO-1, twice the budget", budget=2048),
    Case(name="ZeRO-1, checkpointing", checkpointing=True),
    Case(name="ZeRO-1, checkpointing, twice the budget", checkpointing=True, budget=2048),
    Case(name="ZeRO-1, reference", kl_coef=0.04),
    Case(name="ZeRO-2", zero_stage=2),
    Case(name="ZeRO-3", zero_stage=3),
    Case(name="ZeRO-3, twice the budget", zero_stage=3, budget=2048),
    Case(name="ZeRO-3, checkpointing", zero_stage=3, checkpointing=True),
    Case(name="ZeRO-3, reference", zero_stage=3, kl_coef=0.04),
    Case(name="one rank", num_ranks=1),
    Case(name="smaller model, ZeRO-1", model=SMALL),
    Case(name="smaller model, ZeRO-3, reference", model=SMALL, zero_stage=3, kl_coef=0.04),
)


def spec_of(case: Case, folder: Path) -> LearnerSpec:
    """What its ranks are told; the model is in `folder`."""
    algorithm = resolve(AlgorithmConfig(name="grpo", kl_coef=case.kl_coef))
    return LearnerSpec(
        model=ModelConfig(path=str(folder), gradient_checkpointing=case.checkpointing),
        tokenizer_path=str(folder),
        seed=0,
        optimizer=OptimizerConfig(),
        trainer=TrainerConfig.model_validate(
            {"num_ranks": case.num_ranks, "zero_stage": case.zero_stage, "tokens_per_micro_batch": case.budget}
        ),
        objective=PolicyObjective(algorithm=algorithm, temperature=1.0, max_response_tokens=RESPONSE_TOKENS),
        total_updates=10,
    )


def make_batch(case: Case) -> tuple[Batch, TokenBlock]:
    """Sequences of one length each, which fill their micro-batches."""
    length = PROMPT_TOKENS + RESPONSE_TOKENS
    mask = np.tile(np.arange(length) >= PROMPT_TOKENS, case.num_sequences)
    total = length * case.num_sequences
    block = TokenBlock(
        offsets=np.arange(case.num_sequences + 1, dtype=np.int64) * length,
        tokens=np.random.default_rng(0).integers(0, VOCAB_SIZE, total).astype(np.int32),
        response_mask=mask,
        rollout_logprobs=np.where(mask, np.float32(-9.0), np.float32(0)),
        versions=np.where(mask, 0, -1).astype(np.int32),
    )
    items = [
        Item(block=0, row=row, num_tokens=length, num_loss_tokens=RESPONSE_TOKENS, advantage=1.0 if row % 2 else -1.0)
        for row in range(case.num_sequences)
    ]
    mini_batches = plan_mini_batches(
        [items], num_mini_batches=1, num_ranks=case.num_ranks, tokens_per_micro_batch=case.budget
    )
    return Batch(blocks=(), mini_batches=mini_batches), block


def save_model(model: NewModelConfig, folder: Path) -> None:
    """A model with random weights in Hugging Face format."""
    from trainers.model import SpecialTokens, new_model

    tokens = SpecialTokens(bos=None, eos=1, pad=0)
    new_model(model, vocab_size=VOCAB_SIZE, seed=0, tokens=tokens, dtype="float32").save_pretrained(folder)


def peak_of_rank(case: Case, folder: Path) -> dict[str, int]:
    """This rank's peak in bytes above its memory before the model is made: until it is made, and over two updates."""
    from torch import distributed as dist

    from trainers.assembly import assemble

    part, block = make_batch(case)
    part = part.of_rank(dist.get_rank())
    warm_up = assemble(spec_of(case, folder.with_name(_TINY_FOLDER)))
    warm_up.update(part, [block])  # what is imported on first use is no memory of the model
    del warm_up
    gc.collect()
    start = _forget_peak()
    trainer = assemble(spec_of(case, folder))
    made = _status("VmHWM") - start
    _forget_peak()
    trainer.update(part, [block])
    began = time.process_time()
    trainer.update(part, [block])
    seconds = time.process_time() - began
    peak = _status("VmHWM") - start
    return {"making": made, "update": peak, "held": _status("VmRSS") - start, "cpu_milliseconds": round(1000 * seconds)}


def _forget_peak() -> int:
    """Let the peak begin anew; what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(name))
    return int(line.split()[1]) * 1024


def measure(case: Case, folder: Path) -> dict[str, int]:
    """The largest of its ranks, in bytes."""
    from tests.trainers.ranks import run_on_ranks

    model = folder / f"model_{case.model.hidden_size}"
    for sizes, path in ((case.model, model), (_TINY, folder / _TINY_FOLDER)):
        if not path.exists():
            save_model(sizes, path)
    found = run_on_ranks(case.num_ranks, partial(peak_of_rank, case, model), folder)
    return {name: max(rank[name] for rank in found) for name in found[0]}


if __name__ == "__main__":
    import sys
    import tempfile

    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        measured = {}
        for case in [case for case in CASES if not sys.argv[2:] or case.name in sys.argv[2:]]:
            measured[case.name] = measure(case, Path(folder))
            print(case.name, measured[case.name], flush=True)
            out.write_bytes(pickle.dumps(measured))
