"""What is said when memory runs out, and where following it leads under the same limit."""

import resource
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from configs.schema.model import ModelConfig
from configs.schema.training import TrainerConfig
from experience.packing import plan_mini_batches
from experience.records import Batch, Item, MiniBatch, TokenBlock
from tests.actors.learner_cases import make_spec
from tests.trainers.ranks import run_on_ranks
from trainers.assembly import assemble
from trainers.memory import OutOfMemory, advice, is_out_of_memory, out_of_memory_told
from trainers.supervised import SupervisedObjective

ROOM = 384 << 20  # bytes that the rank may take beyond those of its start
NUM_TOKENS, LENGTH = 24_576, 128
MODEL = ModelConfig(path="some/model")


def part(*passes: list[int]) -> Batch:
    """One rank's part: the tokens of the sequences of each pass."""
    micro_batches = tuple(
        tuple(Item(block=0, row=row, num_tokens=tokens, num_loss_tokens=1) for row, tokens in enumerate(lengths))
        for lengths in passes
    )
    return Batch(
        blocks=(), mini_batches=(MiniBatch(ranks=(micro_batches,), num_items=1, num_sequences=1, num_loss_tokens=1),)
    )


def test_a_quarter_of_what_the_free_memory_held_is_advised() -> None:
    told = advice(MODEL, TrainerConfig(), part([100] * 10), free=3 << 30, needed=4 << 30)
    assert told == (
        "out of memory in a pass of up to 1000 tokens with 3.00 GiB free: "
        "try trainer.tokens_per_micro_batch=187 (now 4096), or model.gradient_checkpointing=true"
    )


def test_a_value_that_a_sequence_exceeds_is_not_advised() -> None:
    told = advice(MODEL, TrainerConfig(), part([100, 200], [700, 300], []), free=3 << 30, needed=4 << 30)
    assert told == (
        "out of memory in a pass of up to 1000 tokens with 3.00 GiB free, which would hold about 187, and one sequence "
        "has 700: model.gradient_checkpointing=true, or shorten the sequences"
    )


@pytest.mark.parametrize(
    ("is_checkpointing", "trainer", "hint"),
    [
        (False, {"num_ranks": 2}, "model.gradient_checkpointing=true"),
        (True, {"num_ranks": 2, "zero_stage": 2}, "trainer.zero_stage=3"),
        (True, {"num_ranks": 2, "zero_stage": 3}, "trainer.sequence_parallel_size"),
        (True, {}, "trainer.sequence_parallel_size"),
    ],
)
def test_what_is_done_already_is_not_advised(is_checkpointing: bool, trainer: dict[str, int], hint: str) -> None:
    model = MODEL.model_copy(update={"gradient_checkpointing": is_checkpointing})
    assert hint in advice(model, TrainerConfig.model_validate(trainer), part([9]), free=1, needed=2)


def test_other_errors_are_left_as_they_are() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory_told(MODEL, TrainerConfig(), part([9])):
        raise RuntimeError("shapes differ")


def long_batch(tokens_per_micro_batch: int) -> Batch:
    count = NUM_TOKENS // LENGTH
    mask = np.tile(np.arange(LENGTH) > 0, count)
    block = TokenBlock(
        offsets=np.arange(count + 1, dtype=np.int64) * LENGTH,
        tokens=np.random.default_rng(0).integers(0, 90, NUM_TOKENS).astype(np.int32),
        response_mask=mask,
        rollout_logprobs=np.zeros(NUM_TOKENS, dtype=np.float32),
        versions=np.where(mask, 0, -1).astype(np.int32),
    )
    items = [[Item(block=0, row=row, num_tokens=LENGTH, num_loss_tokens=LENGTH - 1)] for row in range(count)]
    plan = plan_mini_batches(items, num_mini_batches=1, num_ranks=1, tokens_per_micro_batch=tokens_per_micro_batch)
    return Batch(blocks=(block,), mini_batches=plan)


def learn_in_little_memory(folder: Path, tokens_per_micro_batch: int) -> str:
    """What the rank says: the error, or the loss."""
    spec = make_spec(folder, SupervisedObjective(), zero_stage=1, tokens_per_micro_batch=tokens_per_micro_batch)
    trainer = assemble(spec)
    whole = long_batch(tokens_per_micro_batch)
    batch = replace(whole, blocks=())
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + ROOM, resource.RLIM_INFINITY))
    try:
        with out_of_memory_told(spec.model, spec.trainer, batch):
            return f"loss {trainer.update(batch, whole.blocks)['supervised/loss']}"
    except OutOfMemory as error:
        return str(error)


def test_the_advice_leads_to_a_pass_that_fits(tmp_path: Path) -> None:
    make_spec(tmp_path)  # makes the tokenizer
    tokens = NUM_TOKENS
    for _ in range(3):
        (told,) = run_on_ranks(1, partial(learn_in_little_memory, tmp_path, tokens), tmp_path)
        if told.startswith("loss "):
            break
        assert "out of memory in a pass of up to" in told
        advised = int(told.partition("tokens_per_micro_batch=")[2].split()[0])
        assert LENGTH <= advised < tokens
        tokens = advised
    assert told.startswith("loss ")
    assert tokens < NUM_TOKENS
