"""How long a save holds the training, and how long the rest of it takes beside the next step.

python -m benchmarks.checkpoint FOLDER [HIDDEN_SIZE ...]

FOLDER: on the disk to be measured. A transformer of each hidden size is held by two ZeRO-1 ranks and saved five times;
medians. "Before" is the whole save, for which a step waited until saves were completed beside the training.
"""

import asyncio
import shutil
import sys
import time
from pathlib import Path
from statistics import median

from actors.trainer import TrainerGroup
from cluster.session import ray_session
from configs.schema import ClusterConfig
from configs.schema.model import ModelConfig, NewModelConfig, TokenizerConfig
from configs.schema.training import OptimizerConfig, TrainerConfig
from experience.tokenizer import build_tokenizer
from trainers import checkpoint
from trainers.learner import LearnerSpec
from trainers.saving import complete, state_snapshot, write_models
from trainers.supervised import SupervisedObjective

NUM_SAVES = 5


def spec_of(hidden_size: int, folder: Path) -> LearnerSpec:
    """Eight layers of this size, float32."""
    build_tokenizer(TokenizerConfig(), ()).save_pretrained(folder / "tokenizer")
    new = NewModelConfig(hidden_size=hidden_size, intermediate_size=4 * hidden_size, num_layers=8)
    return LearnerSpec(
        model=ModelConfig(new=new),
        tokenizer_path=str(folder / "tokenizer"),
        seed=0,
        optimizer=OptimizerConfig(),
        trainer=TrainerConfig(num_ranks=2, zero_stage=1),
        objective=SupervisedObjective(),
        total_updates=1,
        config_digest="",
    )


async def measure(spec: LearnerSpec, root: Path) -> tuple[int, list[float], list[float]]:
    """Bytes of a checkpoint, seconds that each save held the training, and seconds until it was complete after that."""
    group = await TrainerGroup.start(spec)
    held, beside, size = [], [], 0
    try:
        for step in range(1, NUM_SAVES + 1):
            folder = checkpoint.folder_of(root, step)
            started = time.monotonic()
            draft, written = await write_models(group, folder)
            models_written = time.monotonic()
            await complete(draft, folder, written, state_snapshot({"step": step}))
            held.append(models_written - started)
            beside.append(time.monotonic() - models_written)
            size = sum(entry.size for entry in checkpoint.verify(folder).files.values())
            checkpoint.prune(root, 1)
    finally:
        group.close()
    return size, held, beside


def main() -> None:
    """Print one row a size."""
    root = Path(sys.argv[1]).resolve() / "checkpoint_benchmark"
    print("| hidden size | checkpoint, MiB | before: step held, s | now: step held, s | beside the next step, s |")
    print("|---|---|---|---|---|")
    with ray_session(ClusterConfig(), num_cpus=2):
        for hidden_size in map(int, sys.argv[2:] or ["256", "512", "1024"]):
            root.mkdir(parents=True)
            try:
                size, held, beside = asyncio.run(measure(spec_of(hidden_size, root), root))
            finally:
                shutil.rmtree(root)
            whole = median(h + b for h, b in zip(held, beside, strict=True))
            print(f"| {hidden_size} | {size / 2**20:.0f} | {whole:.2f} | {median(held):.2f} | {median(beside):.2f} |")


if __name__ == "__main__":
    main()
