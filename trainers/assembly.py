"""One rank of a learner, put together from its spec."""

import json
import random
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel

from trainers.adapter_names import peft_config
from trainers.critic import Critic
from trainers.critic_trainer import CriticTrainer
from trainers.export import export_folder, write_adapter, write_description, write_weights
from trainers.learner import LearnerSpec
from trainers.lora import UnadaptedModel, adapted_layers, add_adapters
from trainers.model import (
    PolicyModel,
    SpecialTokens,
    check_packing,
    check_sharing,
    enable_checkpointing,
    load_model,
    new_model,
    place,
)
from trainers.model_files import NORMALIZATION, RewardNormalization, reward_normalization
from trainers.objective_trainer import ObjectiveTrainer
from trainers.parallel import Layout, join_layout
from trainers.policy import PolicyObjective
from trainers.policy_trainer import PolicyTrainer
from trainers.policy_weights import adapter_weights, whole_weights
from trainers.rank import RankTrainer
from trainers.reference_trainer import ReferenceTrainer
from trainers.reward_model import RewardModel, exported_config, is_classifier, load_classifier
from trainers.value_model import value_model, value_model_of_rewards
from trainers.zero.engine import ZeroEngine
from trainers.zero.frozen import FrozenModel

EXPORT_BUCKET_BYTES = 2 << 30
ADAPTER = "adapter"  # the folder of an export that peft loads


def build_model(spec: LearnerSpec) -> PolicyModel | RewardModel:
    """The model before training, with the head that the objective asks for."""
    objective = spec.objective
    if not isinstance(objective, PolicyObjective) and objective.needs_reward_head:
        return RewardModel(_placed(load_classifier(spec.model, seed=spec.seed), spec))
    return build_policy(spec)


def build_policy(spec: LearnerSpec) -> PolicyModel:
    """The policy before training: what `model.path` holds, or random weights from the run's seed."""
    if spec.model.new is None:
        return PolicyModel(_placed(load_model(spec.model), spec))
    tokenizer = load_tokenizer(spec)
    tokens = SpecialTokens(bos=tokenizer.bos_token_id, eos=tokenizer.eos_token_id, pad=tokenizer.pad_token_id)
    model = new_model(spec.model.new, vocab_size=len(tokenizer), seed=spec.seed, tokens=tokens, dtype=spec.model.dtype)
    return PolicyModel(_placed(model, spec))


def _placed(model: PreTrainedModel, spec: LearnerSpec) -> PreTrainedModel:
    """On a GPU: there, with the attention that is fastest there. ZeRO-3 takes its parts of the model from the host."""
    if torch.cuda.is_available() and spec.trainer.zero_stage < 3:
        place(model, torch.device("cuda", torch.cuda.current_device()))
    return model


def assemble(spec: LearnerSpec) -> RankTrainer:
    """This process's rank; the process group is joined already. RuntimeError if the model mixes packed sequences."""
    _seed(spec.seed)
    model = build_model(spec)
    check_packing(model.pretrained)
    layout = join_layout(spec.trainer.sequence_parallel_size, spec.trainer.collective_timeout_seconds)
    check_sharing(model.pretrained, layout)
    if spec.model.lora is not None:
        add_adapters(model.pretrained, spec.model.lora, seed=spec.seed)
    if spec.model.gradient_checkpointing:
        enable_checkpointing(model.pretrained)
    engine = ZeroEngine(model, spec.optimizer, spec.trainer, dtype=spec.model.dtype, total_steps=spec.total_updates)
    objective = spec.objective
    if not isinstance(objective, PolicyObjective):
        return ObjectiveTrainer(
            engine, objective, reference=_reference(engine, spec) if objective.needs_reference else None, layout=layout
        )
    needs_reference = objective.algorithm.needs_reference or spec.measures_kl
    return PolicyTrainer(
        engine,
        objective,
        reference=_reference(engine, spec) if needs_reference and not spec.reference.num_ranks else None,
        critic=_critic(spec, objective, layout) if spec.critic is not None and not spec.critic.num_ranks else None,
        layout=layout,
    )


def assemble_critic(spec: LearnerSpec) -> CriticTrainer:
    """This process's rank of a critic that has ranks of its own; `spec.trainer` describes these."""
    _seed(spec.seed)
    assert isinstance(spec.objective, PolicyObjective), "only policies are trained with a critic"
    layout = join_layout(spec.trainer.sequence_parallel_size, spec.trainer.collective_timeout_seconds)
    return CriticTrainer(_critic(spec, spec.objective, layout), layout)


def assemble_reference(spec: LearnerSpec) -> ReferenceTrainer:
    """This process's rank of a reference that has ranks of its own; `spec.trainer` describes these."""
    _seed(spec.seed)
    assert isinstance(spec.objective, PolicyObjective), "another objective keeps its reference beside the model"
    model = build_policy(spec)
    check_packing(model.pretrained)
    layout = join_layout(spec.trainer.sequence_parallel_size, spec.trainer.collective_timeout_seconds)
    check_sharing(model.pretrained, layout)
    return ReferenceTrainer(FrozenModel(model, spec.trainer, dtype=spec.model.dtype), spec.objective, layout)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _reference(engine: ZeroEngine, spec: LearnerSpec) -> FrozenModel | UnadaptedModel:
    """The model as it is before training: beside the trained one, or in it where only adapters are trained."""
    if spec.model.lora is not None:
        return UnadaptedModel(engine)
    return FrozenModel(build_model(spec), spec.trainer, dtype=spec.model.dtype)


def _critic(spec: LearnerSpec, objective: PolicyObjective, layout: Layout) -> Critic:
    """A value model that starts from the policy's body, or from what `critic.path` holds."""
    config = spec.critic
    assert config is not None, "an algorithm with a critic comes with its config"
    if config.path is not None:
        spec = replace(spec, model=spec.model.model_copy(update={"path": config.path, "new": None}))
    if config.path is not None and is_classifier(config.path):
        classifier = _placed(load_classifier(spec.model, seed=spec.seed), spec)
        model = value_model_of_rewards(classifier, reward_normalization(config.path).std)
    else:
        model = value_model(build_policy(spec).causal_lm)
    check_sharing(model.body, layout)
    if spec.model.gradient_checkpointing:
        enable_checkpointing(model.body)
    trainer = spec.trainer.model_copy(update={"zero_stage": config.zero_stage})
    total_steps = spec.total_updates + spec.critic_warmup_updates
    engine = ZeroEngine(model, config.optimizer, trainer, dtype=spec.model.dtype, total_steps=total_steps)
    return Critic(engine=engine, objective=objective)


def load_tokenizer(spec: LearnerSpec) -> Any:
    """The tokenizer that goes with the model."""
    return AutoTokenizer.from_pretrained(spec.tokenizer_path, trust_remote_code=spec.model.trust_remote_code)


def export_model(
    engine: ZeroEngine, spec: LearnerSpec, folder: Path, normalization: RewardNormalization | None = None
) -> None:
    """Write the model in Hugging Face format; all ranks enter, the first one writes.

    `normalization`: what a reward model's values are to become, stored beside the weights. Adapters are merged
    into the weights, and also written by themselves, for peft, into the folder `adapter`.
    """
    whole = whole_weights(engine, EXPORT_BUCKET_BYTES)
    adapter = adapter_weights(engine, EXPORT_BUCKET_BYTES) if spec.model.lora is not None else ()
    if engine.rank != 0:
        for _ in chain(whole, adapter):
            pass
        return
    module = engine.module
    assert isinstance(module, PolicyModel | RewardModel)
    tokenizer = load_tokenizer(spec)
    with export_folder(folder) as draft:
        write_weights(whole, draft)
        if isinstance(module, PolicyModel):
            write_description(draft, module.pretrained.config, module.pretrained.generation_config, tokenizer)
        else:
            write_description(draft, exported_config(module.classifier, tokenizer), None, tokenizer)
        if normalization is not None:
            (draft / NORMALIZATION).write_text(json.dumps(asdict(normalization)) + "\n", encoding="utf-8")
        if spec.model.lora is not None:
            projections = {name.rpartition(".")[2] for name in adapted_layers(module)}
            write_adapter(adapter, peft_config(spec.model.lora, projections, spec.model.path), draft / ADAPTER)
