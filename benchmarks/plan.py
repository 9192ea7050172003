"""Plans against the memory that real ranks took: `python -m benchmarks.plan MEASURED`; see benchmarks.plan_memory."""

import json
import pickle
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import TypeAdapter

from benchmarks.plan_memory import CASES, PROMPT_TOKENS, RESPONSE_TOKENS, VOCAB_SIZE, Case
from cluster.plan import make_plan
from cluster.plan_machines import Machines
from configs.schema import RlRun, Run

_MIB = 2**20


def planned(case: Case) -> int:
    """The plan's peak of a rank of the policy, in bytes."""
    with TemporaryDirectory() as folder:
        _describe(case, Path(folder))
        return make_plan(run_of(case, folder), Machines()).roles[0].peak.total


def run_of(case: Case, folder: str) -> RlRun:
    """The recipe of a case, its model's config in `folder`."""
    return TypeAdapter(Run).validate_python(
        {
            "name": "measured",
            "stage": "rl",
            "model": {"path": folder, "gradient_checkpointing": case.checkpointing},
            "data": {"arithmetic": {}, "max_prompt_tokens": PROMPT_TOKENS},
            "num_steps": 2,
            "rewards": [{"use": "math"}],
            "algorithm": {"name": "grpo", "kl_coef": case.kl_coef},
            "trainer": {
                "num_ranks": case.num_ranks,
                "zero_stage": case.zero_stage,
                "tokens_per_micro_batch": case.budget,
            },
            "rollout": {
                "prompts_per_step": case.num_sequences,
                "group_size": 1,
                "sampling": {"max_response_tokens": RESPONSE_TOKENS},
            },
        }
    )


def _describe(case: Case, folder: Path) -> None:
    """The model's config.json, as transformers writes it."""
    new = case.model
    sizes = {
        "model_type": new.architecture,
        "vocab_size": VOCAB_SIZE,
        "hidden_size": new.hidden_size,
        "intermediate_size": new.intermediate_size,
        "num_hidden_layers": new.num_layers,
        "num_attention_heads": new.num_heads,
        "num_key_value_heads": new.num_kv_heads,
        "head_dim": new.hidden_size // new.num_heads,
        "tie_word_embeddings": new.tie_word_embeddings,
    }
    (folder / "config.json").write_text(json.dumps(sizes))


def main() -> None:
    """A table of both, and of the plan's error."""
    measured = pickle.loads(Path(sys.argv[1]).read_bytes())  # our own file of the same machine
    print("| case | measured MiB | plan MiB | error |\n|---|---|---|---|")
    for case in CASES:
        if case.name in measured:
            peak, plan = measured[case.name]["update"], planned(case)
            print(f"| {case.name} | {peak / _MIB:.0f} | {plan / _MIB:.0f} | {plan / peak - 1:+.0%} |")


if __name__ == "__main__":
    main()
