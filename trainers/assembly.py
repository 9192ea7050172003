"""One rank of a learner, put together from its spec."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from trainers.checkpoint import CheckpointError, require_space
from trainers.export import export_folder, write_description, write_weights
from trainers.learner import LearnerSpec
from trainers.model import (
    PolicyModel,
    SpecialTokens,
    check_packing,
    checkpoint_name,
    enable_checkpointing,
    load_model,
    new_model,
)
from trainers.rank import RankTrainer
from trainers.rng import load_rng, save_rng
from trainers.zero import FrozenModel, ZeroEngine

EXPORT_BUCKET_BYTES = 2 << 30


def build_model(spec: LearnerSpec) -> PolicyModel:
    """The policy before training: what `model.path` holds, or random weights from the run's seed."""
    if spec.model.new is None:
        return PolicyModel(load_model(spec.model))
    tokenizer = load_tokenizer(spec)
    tokens = SpecialTokens(bos=tokenizer.bos_token_id, eos=tokenizer.eos_token_id, pad=tokenizer.pad_token_id)
    return PolicyModel(
        new_model(spec.model.new, vocab_size=len(tokenizer), seed=spec.seed, tokens=tokens, dtype=spec.model.dtype)
    )


def assemble(spec: LearnerSpec) -> RankTrainer:
    """This process's rank; the process group is joined already. RuntimeError if the model mixes packed sequences."""
    torch.manual_seed(spec.seed)
    random.seed(spec.seed)
    np.random.seed(spec.seed)
    model = build_model(spec)
    check_packing(model)
    if spec.model.gradient_checkpointing:
        enable_checkpointing(model.causal_lm)
    reference = None
    if spec.objective.needs_reference:
        reference = FrozenModel(build_model(spec), spec.trainer, dtype=spec.model.dtype)
    engine = ZeroEngine(model, spec.optimizer, spec.trainer, dtype=spec.model.dtype, total_steps=spec.total_updates)
    return RankTrainer(engine, spec.objective, reference)


def load_tokenizer(spec: LearnerSpec) -> Any:
    """The tokenizer that goes with the model."""
    return AutoTokenizer.from_pretrained(spec.tokenizer_path, trust_remote_code=spec.model.trust_remote_code)


def save_rank(engine: ZeroEngine, folder: Path) -> None:
    """This rank's part of a checkpoint. OSError, on every rank alike, when the disk has no room for the whole."""
    require_space(folder, engine.checkpoint_bytes)
    engine.save(folder)
    save_rng(_rng_file(folder, engine.rank))


def load_rank(engine: ZeroEngine, folder: Path) -> None:
    """Go on from a checkpoint's part for this rank; its manifest must have been verified."""
    path = _rng_file(folder, engine.rank)
    if not path.is_file():
        raise CheckpointError(f"{path}: missing, so the checkpoint is not one of {engine.world_size} ranks")
    engine.load(folder)
    load_rng(path)


def export_policy(engine: ZeroEngine, spec: LearnerSpec, folder: Path) -> None:
    """Write the policy in Hugging Face format; all ranks enter, the first one writes."""
    buckets = (
        [(checkpoint_name(name), tensor) for name, tensor in bucket] for bucket in engine.buckets(EXPORT_BUCKET_BYTES)
    )
    if engine.rank != 0:
        for _ in buckets:
            pass
        return
    module = engine.module
    assert isinstance(module, PolicyModel)
    with export_folder(folder) as draft:
        write_weights(buckets, draft)
        write_description(draft, module.config, module.causal_lm.generation_config, load_tokenizer(spec))


def _rng_file(folder: Path, rank: int) -> Path:
    return folder / "rng" / f"rank_{rank}.safetensors"
