"""What an evaluation reads - models, data sets, sizes - checked before any process or device is taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.inputs import context_length
from configs.schema import ClusterConfig, DataConfig, ModelConfig, RewardSpec, RolloutConfig
from experience.dataset import Dataset, load_dataset
from experience.prompts import PromptTable, eval_prompts
from experience.records import Prompt
from experience.tokenizer import load_tokenizer, stop_token_ids
from rewards.marked import READINGS
from trainers.model_files import check_model

_MADE_OF = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """What to evaluate on what.

    `models`: one, or two that are compared. `data`: one for each data set. `num_samples`: sampled responses a prompt,
    beside the greedy one; 0: none. `beam_width`: of a beam search, likewise. `rewards`: the first one says what
    is right. `marker`: where responses mark their answer; None: where that reward reads it. `reward_model`: scores all
    responses; None: none does.
    """

    models: tuple[ModelConfig, ...]
    data: tuple[DataConfig, ...]
    rollout: RolloutConfig
    rewards: tuple[RewardSpec, ...]
    marker: str | None = None
    reward_model: str | None = None
    num_prompts: int
    num_samples: int
    beam_width: int = 0
    seed: int = 0
    cluster: ClusterConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Examinee:
    """A model and the prompts that it gets, by data set, in its own tokens."""

    path: str
    folder: Path
    prompts: Mapping[str, Sequence[Prompt]]
    longest_sequence: int
    stop_token_ids: tuple[int, ...]

    @property
    def kind(self) -> Sequence[bytes | None]:
        """What the model's engine is made of. Models of one kind differ in their weights alone."""
        files = [self.folder / name for name in _MADE_OF]
        return [file.read_bytes() if file.is_file() else None for file in files]


def examinees(request: EvaluationRequest) -> list[Examinee]:
    """Every model with its prompts. ValueError, in one line, for anything wrong with either."""
    sources = [str(data.train) for data in request.data]
    for source in sources:
        if sources.count(source) > 1:
            raise ValueError(f"DATA={source}: given twice; each data set counts once in the mean")
    for model in request.models:
        check_model(model, tensor_parallel_size=request.rollout.tensor_parallel_size)
    datasets = {source: load_dataset(source) for source in sources}
    return [_examinee(request, model, datasets) for model in request.models]


def judging(request: EvaluationRequest) -> tuple[RewardSpec, ...]:
    """The rewards, with the marker for the one that says what is right, where it takes one."""
    first, *others = request.rewards
    reading = READINGS.get(first.use)
    if request.marker is None or reading is None or not reading.has_argument:
        return request.rewards
    return first.model_copy(update={"args": {**first.args, "marker": request.marker}}), *others


def _examinee(request: EvaluationRequest, model: ModelConfig, datasets: Mapping[str, Dataset]) -> Examinee:
    assert model.path is not None
    folder = Path(model.path).resolve()
    tokenizers = [load_tokenizer(folder, chat_template=data.chat_template) for data in request.data]
    tables = {
        str(data.train): PromptTable(datasets[str(data.train)], tokenizer, data)
        for data, tokenizer in zip(request.data, tokenizers, strict=True)
    }
    prompts = {source: eval_prompts(table, request.num_prompts) for source, table in tables.items()}
    return Examinee(
        path=model.path,
        folder=folder,
        prompts=prompts,
        longest_sequence=_longest_sequence(model, prompts, request.rollout.sampling.max_response_tokens),
        stop_token_ids=tuple(dict.fromkeys(stop for each in tokenizers for stop in stop_token_ids(each))),
    )


def _longest_sequence(model: ModelConfig, prompts: Mapping[str, Sequence[Prompt]], max_response_tokens: int) -> int:
    """Tokens of the longest prompt with the longest response. ValueError when the model can't hold them."""
    prompt = max(len(prompt.tokens) for several in prompts.values() for prompt in several)
    longest, limit = prompt + max_response_tokens, context_length(model)
    if limit is not None and longest > limit:
        raise ValueError(
            f"the longest prompt has {prompt} tokens; with --max-response-tokens={max_response_tokens} that makes "
            f"{longest}, and the model at {model.path} takes {limit}; lower it to {max(limit - prompt, 0)}"
        )
    return longest
