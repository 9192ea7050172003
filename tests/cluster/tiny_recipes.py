"""The stages at the smallest size at which every part still works."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from configs.schema import Run

DATA = {"arithmetic": {"operations": ["+"], "digits": 1, "steps": 1, "num_train": 30, "num_eval": 8}}
RANKED = {"ranked_arithmetic": {"digits": 1, "steps": 2, "num_train": 30, "num_eval": 8, "num_responses": 3}}
TRAINER = {"num_ranks": 2, "tokens_per_micro_batch": 512}


def recipe(stage: str, folder: Path, **changes: Any) -> Run:
    """A run called after its stage. `changes` replace whole sections."""
    common = {
        "name": stage,
        "stage": stage,
        "output_dir": str(folder),
        "data": DATA,
        "trainer": TRAINER,
        "optimizer": {"learning_rate": 1e-3},
        "num_steps": 2,
    }
    return TypeAdapter(Run).validate_python({**common, **STAGES[stage](folder), **changes})


def new_model(architecture: str = "qwen3", tokenizer: str = "characters") -> dict[str, Any]:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1}
    vocabulary = {"kind": tokenizer, "vocab_size": 300}
    return {"new": {"architecture": architecture, "max_position_embeddings": 128, "tokenizer": vocabulary, **sizes}}


STAGES = {
    "pretrain": lambda folder: {"model": new_model(), "sequences_per_step": 8, "max_sequence_tokens": 32},
    "sft": lambda folder: {
        "model": {"path": str(folder / "pretrain" / "export")},
        "sequences_per_step": 8,
        "max_sequence_tokens": 64,
    },
    "reward_model": lambda folder: {
        "model": {"path": str(folder / "sft" / "export")},
        "data": RANKED,
        "comparisons_per_step": 4,
        "max_sequence_tokens": 64,
    },
    "dpo": lambda folder: {
        "model": {"path": str(folder / "sft" / "export")},
        "data": RANKED,
        "comparisons_per_step": 4,
        "max_sequence_tokens": 64,
    },
    "rl": lambda folder: {
        "model": {"path": str(folder / "sft" / "export")},
        "data": {**DATA, "max_prompt_tokens": 24},
        "rollout": {"prompts_per_step": 4, "group_size": 2, "sampling": {"max_response_tokens": 16}},
        "rewards": [{"use": f"{Path(__file__).with_name('tiny_rules.py')}:letters"}],
        "algorithm": {"name": "grpo", "kl_coef": 0},
        "evaluation": {"num_prompts": 4},
    },
}
