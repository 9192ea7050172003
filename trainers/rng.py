"""The random generators of one process, as a file: torch's states as tensors, the others as JSON."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save_rng(path: Path) -> None:
    """Write the states of this process's torch, numpy and python generators."""
    states = {"cpu": torch.get_rng_state()}
    for index in range(torch.cuda.device_count()):
        states[f"cuda_{index}"] = torch.cuda.get_rng_state(index)
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    numpy_state = [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(states, path, metadata={"python": json.dumps(random.getstate()), "numpy": json.dumps(numpy_state)})


def load_rng(path: Path) -> None:
    """Set this process's generators to what `save_rng` wrote."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        torch.set_rng_state(file.get_tensor("cpu"))
        for index in range(torch.cuda.device_count()):
            torch.cuda.set_rng_state(file.get_tensor(f"cuda_{index}"), index)
    version, internal, gauss = json.loads(metadata["python"])
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = json.loads(metadata["numpy"])
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
