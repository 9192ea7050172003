"""Checks of a model on disk before anything heavy starts: reads headers, never weights, and needs no torch."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any, get_args

from configs.schema.model import Architecture, ModelConfig, NewModelConfig
from trainers.adapter_names import adapter_shapes

_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_HUB_TIMEOUT_SECONDS = 4.0
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
NORMALIZATION = "reward_normalization.json"
_EMBEDDING = "model.embed_tokens.weight"
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardNormalization:
    """What a reward model's raw values become: less the mean, over the deviation."""

    mean: float = 0.0
    std: float = 1.0

    def apply(self, value: float) -> float:
        """The reward of a raw value."""
        return (value - self.mean) / self.std


def check_model(config: ModelConfig, *, sequence_parallel_size: int = 1, tensor_parallel_size: int = 1) -> None:
    """Raise ValueError, in one line, for a model that can't be made, loaded, or shared by so many ranks or devices."""
    if config.new is not None:
        _check_new(config.new)
        check_heads(config.new.num_heads, sequence_parallel_size)
        check_devices(config.new.num_heads, config.new.num_kv_heads, tensor_parallel_size)
        return
    assert config.path is not None
    folder = Path(config.path).expanduser()
    if folder.is_dir():
        _check_folder(folder, config)
        sizes = _read_json(folder / "config.json")
        if num_heads := sizes.get("num_attention_heads"):
            check_heads(num_heads, sequence_parallel_size)
            check_devices(num_heads, sizes.get("num_key_value_heads") or num_heads, tensor_parallel_size)
    else:
        if config.trust_remote_code:
            raise ValueError(
                f"model.path={config.path} with model.trust_remote_code: what a name on the hub stands for can change; "
                "download a revision of it, read its code, and set model.path to the folder"
            )
        _check_architecture(_hub_config(config.path), config)


def check_heads(num_heads: int, sequence_parallel_size: int) -> None:
    """ValueError unless so many ranks can share the attention heads evenly."""
    if num_heads % sequence_parallel_size:
        choices = ", ".join(str(number) for number in range(1, num_heads + 1) if num_heads % number == 0)
        raise ValueError(
            f"trainer.sequence_parallel_size={sequence_parallel_size}: the model's {num_heads} attention heads can't "
            f"be shared evenly; choose one of {choices}"
        )


def check_devices(num_heads: int, num_key_value_heads: int, tensor_parallel_size: int) -> None:
    """ValueError unless an engine can share the heads among so many devices, or repeat key-value heads evenly."""
    if not are_divisible(num_heads, num_key_value_heads, tensor_parallel_size):
        sizes = range(1, num_heads + 1)
        choices = ", ".join(str(size) for size in sizes if are_divisible(num_heads, num_key_value_heads, size))
        raise ValueError(
            f"rollout.tensor_parallel_size={tensor_parallel_size}: the model's {num_heads} attention heads and "
            f"{num_key_value_heads} key-value heads can't be shared evenly; choose one of {choices}"
        )


def are_divisible(num_heads: int, num_key_value_heads: int, size: int) -> bool:
    """Whether `size` devices get equally many heads each; several may hold the same key-value head."""
    return num_heads % size == 0 and (num_key_value_heads % size == 0 or size % num_key_value_heads == 0)


def check_reward_model(path: str) -> None:
    """Raise ValueError, in one line, unless `path` is a sequence classifier with one label, in safetensors."""
    try:
        _check_classifier(path, Path(path).expanduser())
    except ValueError as error:
        raise ValueError(f"model:{path}: {str(error).removeprefix(f'model.path={path}: ')}") from error


def _check_classifier(path: str, folder: Path) -> None:
    is_folder = folder.is_dir()
    architecture = _read_json(_existing(folder / "config.json")) if is_folder else _hub_config(path)
    (kind, *_) = architecture.get("architectures") or ["none"]
    if not kind.endswith("ForSequenceClassification"):
        raise ValueError(f"architecture {kind} in config.json; a reward model is a ...ForSequenceClassification")
    if "auto_map" in architecture:
        raise ValueError("needs code of the checkpoint's own, which is not run for reward models")
    if not is_folder:
        return  # the hub tells no more of its config
    num_labels = len(architecture.get("id2label") or ()) or architecture.get("num_labels", 2)
    if num_labels != 1:
        raise ValueError(f"{num_labels} labels in config.json; a reward model has num_labels=1")
    if not _check_weights(folder, ModelConfig(path=path, allow_pickle_weights=True)):
        raise ValueError("pickled weights can run code when loaded; convert them to safetensors")
    reward_normalization(path)


def reward_normalization(path: str) -> RewardNormalization:
    """What the reward model's reward_normalization.json says; 0 and 1 where there is none."""
    file = Path(path).expanduser() / NORMALIZATION
    if not file.is_file():
        return RewardNormalization()
    values = _read_json(file)
    mean, std = values.get("mean"), values.get("std")
    if not isinstance(mean, int | float) or not isinstance(std, int | float) or not (isfinite(mean) and 0 < std < inf):
        raise ValueError(f'{file}: expected {{"mean": a number, "std": a number above 0}}, found {values}')
    return RewardNormalization(mean=float(mean), std=float(std))


def _check_new(new: NewModelConfig) -> None:
    head_size = new.hidden_size // new.num_heads
    if head_size % 2:
        raise ValueError(
            f"model.new.hidden_size={new.hidden_size} with num_heads={new.num_heads} makes heads of {head_size}; "
            "rotary positions need an even number"
        )
    if new.architecture == "qwen3_moe" and new.num_experts_per_token > new.num_experts:
        raise ValueError(
            f"model.new.num_experts_per_token={new.num_experts_per_token} is more than num_experts={new.num_experts}"
        )


def _check_folder(folder: Path, config: ModelConfig) -> None:
    architecture = _read_json(_existing(folder / "config.json"))
    _check_architecture(architecture, config)
    shapes = _check_weights(folder, config)
    if shapes and config.lora is not None:
        adapter_shapes(shapes, config.lora)
    vocab_size = architecture.get("vocab_size", 0)
    num_rows = shapes.get(_EMBEDDING, (vocab_size,))[0]
    if num_rows != vocab_size:
        raise ValueError(f"{folder}: config.json says vocab_size={vocab_size}, but {_EMBEDDING} has {num_rows} rows")
    if (tokenizer := folder / "tokenizer.json").is_file():
        _check_tokenizer(tokenizer, vocab_size)


def _check_architecture(architecture: Mapping[str, Any], config: ModelConfig) -> None:
    name = architecture.get("model_type")
    references = [str(reference) for reference in architecture.get("auto_map", {}).values()]
    elsewhere = sorted({reference.partition("--")[0] for reference in references if "--" in reference})
    if config.trust_remote_code and elsewhere:
        raise ValueError(
            f"model.path={config.path}: model_type={name!r} takes its code from the hub ({', '.join(elsewhere)}), "
            "where it can change; download it into the folder, and take the prefix up to `--` out of auto_map"
        )
    if name in get_args(Architecture):
        return
    if not references:
        choices = ", ".join(get_args(Architecture))
        raise ValueError(f"model.path={config.path}: model_type={name!r} in config.json; choose one of {choices}")
    if not config.trust_remote_code:
        modules = {reference.split("--")[-1].split(".")[0] for reference in references}
        files = ", ".join(f"{module}.py" for module in sorted(modules))
        raise ValueError(
            f"model.path={config.path}: model_type={name!r} needs code of the checkpoint's own ({files}); "
            "read it, then set model.trust_remote_code: true"
        )


def _check_weights(folder: Path, config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """The tensors' shapes; none of them for pickled weights, which nothing but unpickling could tell."""
    if (folder / _INDEX).is_file():
        names = sorted(set(_read_json(folder / _INDEX).get("weight_map", {}).values()))
        return {name: shape for file in names for name, shape in _read_shapes(_existing(folder / file)).items()}
    if (folder / _WEIGHTS).is_file():
        return _read_shapes(folder / _WEIGHTS)
    pickles = [name for name in _PICKLES if (folder / name).is_file()]
    if not pickles:
        raise ValueError(f"model.path={folder}: no weights there; expected {_WEIGHTS} or {_INDEX}")
    if not config.allow_pickle_weights:
        raise ValueError(
            f"{folder / pickles[0]}: pickled weights can run code when loaded; convert them to safetensors, "
            "or set model.allow_pickle_weights: true if you trust their source"
        )
    return {}


def _read_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Shapes from the file's header, which must also account for every byte of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if size < 8 or header_size > min(size - 8, _MAX_HEADER_BYTES):
            raise ValueError(f"{path}: header of {header_size} bytes in a file of {size}: truncated, or no safetensors")
        header = _parse_json(file.read(header_size), path)
    header.pop("__metadata__", None)
    expected = 8 + header_size + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    if size != expected:
        raise ValueError(f"{path}: {size} bytes, but its header says {expected}: truncated or damaged; copy it again")
    return {name: tuple(tensor["shape"]) for name, tensor in header.items()}


def _check_tokenizer(path: Path, vocab_size: int) -> None:
    tokenizer = _read_json(path)
    vocab = tokenizer.get("model", {}).get("vocab", {})
    ids = list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab)))
    ids += [token["id"] for token in tokenizer.get("added_tokens", [])]
    if ids and max(ids) >= vocab_size:
        raise ValueError(
            f"{path}: its largest token id is {max(ids)}, but the model's vocab_size is {vocab_size}; "
            "they do not belong together"
        )


def _hub_config(name: str) -> Mapping[str, Any]:
    """config.json of a model on the hub, from the cache or the network."""
    if not _HUB_NAME.fullmatch(name) or Path(name).exists():
        raise ValueError(f"model.path={name}: not a folder")
    # Imported here: most runs load a folder, and need no client of the hub.
    from huggingface_hub import HfApi, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return _read_json(Path(cached))
    try:
        return HfApi().model_info(name, timeout=_HUB_TIMEOUT_SECONDS).config or {}
    except Exception as error:  # of whichever HTTP library the client uses
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"model.path={name}: no such folder, and the hub does not give it: {reason}") from error


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"model.path={path.parent}: {path.name} is missing there")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    return _parse_json(path.read_bytes(), path)


def _parse_json(text: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:  # also undecodable bytes
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value
