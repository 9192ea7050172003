"""Where prompts and texts come from, and which column means what."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from configs.schema.base import Section
from configs.schema.gym_tasks import GYM_TASKS

Operation = Literal["+", "-", "*"]

GENERATORS = ("arithmetic", "ranked_arithmetic", "countdown", "reasoning_gym")


class WebTextConfig(Section):
    """Plain text as the web has it: problems with a solution in some form, of some length, right or wrong."""

    tagged: float = Field(default=0.5, ge=0, le=1)
    """Share of the solutions in the form `<think>...</think><answer>...</answer>`; others are the bare chain."""
    skipped: float = Field(default=0.6, ge=0, le=1)
    """Chance of each step but the last to be left out: the chain jumps over it."""
    bare: float = Field(default=0.0, ge=0, le=1)
    """Share of the solutions that leave out all of them: the answer alone."""
    wrong: float = Field(default=0.1, ge=0, le=1)
    """Share of the solutions in which one step is off by 1 to 3, and what follows goes on from there."""
    solutions_per_problem: int = Field(default=1, ge=1)
    """Texts of each training problem, a solution each; held-out problems have one."""


class ArithmeticConfig(Section):
    """Generated arithmetic problems; the same settings and seed always give the same problems."""

    operations: tuple[Operation, ...] = ("+", "-")
    """Operators that problems draw from."""
    digits: int = Field(default=2, ge=1, le=9)
    """Largest number of digits of an operand."""
    steps: int = Field(default=2, ge=1, le=8)
    """Operations a problem."""
    num_train: int = Field(default=20_000, ge=1)
    """Training problems."""
    num_eval: int = Field(default=512, ge=1)
    """Held-out problems; none of them is among the training problems."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the generator."""
    link_words: tuple[str, ...] = ()
    """Words between the steps of responses and texts, one drawn for each place; none: `=`."""
    web_text: WebTextConfig | None = None
    """The plain text shows each problem with a solution of mixed length and quality; none: correct chains alone."""

    @model_validator(mode="after")
    def _one_kind_of_text(self) -> "ArithmeticConfig":
        if self.link_words and self.web_text is not None:
            raise ValueError("link_words with web_text: its solutions are linked by `=`; leave one of them out")
        return self


class RankedArithmeticConfig(ArithmeticConfig):
    """The same arithmetic problems with responses in which more or fewer steps are wrong (reward_model, dpo)."""

    num_responses: int = Field(default=4, ge=2, le=9)
    """Responses a comparison; no two of them have equally many wrong steps."""
    rankings_per_problem: int = Field(default=1, ge=1)
    """Training comparisons of each problem, with other mistakes in each; held-out problems have one."""

    @model_validator(mode="after")
    def _enough_steps(self) -> "RankedArithmeticConfig":
        if self.num_responses > self.steps + 1:
            raise ValueError(
                f"num_responses={self.num_responses} with steps={self.steps}: only {self.steps + 1} responses can "
                "differ in their number of wrong steps; lower it, or raise steps"
            )
        return self


class CountdownConfig(Section):
    """Generated countdown problems, for the reward `countdown`; the same settings always give the same problems."""

    num_numbers: int = Field(default=4, ge=2, le=6)
    """Numbers a problem, each to be used once."""
    largest: int = Field(default=99, ge=2, le=9999)
    """Largest number, and largest target; both start at 1."""
    num_train: int = Field(default=20_000, ge=1)
    """Training problems."""
    num_eval: int = Field(default=512, ge=1)
    """Held-out problems; none of them is among the training problems, in any order of the numbers."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the generator."""


class ReasoningGymConfig(Section):
    """Problems of the package reasoning-gym, for the reward `reasoning_gym`; an extra, see docs/rewards.md."""

    task: str
    """One of the package's tasks that are allowed (docs/rewards.md)."""
    num_train: int = Field(default=20_000, ge=1)
    """Training problems."""
    num_eval: int = Field(default=512, ge=1)
    """Held-out problems; none of their questions is among the training problems."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the generator."""
    args: dict[str, object] = Field(default_factory=dict)
    """The task's own settings, under the package's names; those left out have the package's defaults."""

    @field_validator("task")
    @classmethod
    def _task_is_allowed(cls, task: str) -> str:
        if task not in GYM_TASKS:
            raise ValueError(f"{task!r} is not allowed; choose one of {', '.join(GYM_TASKS)}")
        return task

    @field_validator("args")
    @classmethod
    def _seed_and_size_are_ours(cls, args: dict[str, object]) -> dict[str, object]:
        if own := sorted({"seed", "size"} & args.keys()):
            raise ValueError(f"{own[0]!r} has no effect here; set data.reasoning_gym.seed, num_train and num_eval")
        return args


class DataConfig(Section):
    """The data set: files, a hub data set, or one of the generators."""

    train: str | None = None
    """Parquet or JSONL file, a glob of them, a folder, or `hub:NAME[/CONFIG][:SPLIT]`."""
    eval: str | None = None
    """Held-out data in the same form; none: no held-out evaluation."""
    arithmetic: ArithmeticConfig | None = None
    """Generate arithmetic problems instead of reading files."""
    ranked_arithmetic: RankedArithmeticConfig | None = None
    """Generate arithmetic problems with ranked responses instead of reading files."""
    countdown: CountdownConfig | None = None
    """Generate countdown problems instead of reading files."""
    reasoning_gym: ReasoningGymConfig | None = None
    """Generate problems of a task of reasoning-gym instead of reading files."""
    prompt_column: str = "prompt"
    """Column with the prompt: a text, or a list of {role, content} messages."""
    answer_column: str = "answer"
    """Column with the gold answer that rewards compare with."""
    response_column: str = "response"
    """Column with the response to imitate (SFT)."""
    chosen_column: str = "chosen"
    """Column with the response that was preferred (reward_model, dpo): a text, or messages that end with it."""
    rejected_column: str = "rejected"
    """Column with the other response, in the same form."""
    margin_column: str = "margin"
    """Column with how much better the chosen response is, above 0; 1 where there is no such column."""
    responses_column: str = "responses"
    """Column with a list of responses to one prompt, in place of a chosen and a rejected one."""
    ratings_column: str = "ratings"
    """Column with a list of numbers, one for each of the responses: higher is better."""
    ranks_column: str = "ranks"
    """Column with the ranks of the responses where there are no ratings: 1 is the best."""
    text_column: str = "text"
    """Column with plain text (pre-training)."""
    system_prompt: str | None = None
    """A system message put before every prompt that has none."""
    chat_template: str | None = None
    """File with a Jinja chat template, used in place of the tokenizer's."""
    max_prompt_tokens: int = Field(default=512, ge=1)
    """Longest prompt, in tokens after the chat template."""
    long_prompts: Literal["refuse", "drop", "truncate_left"] = "refuse"
    """What happens to longer prompts; the number concerned is always logged."""
    missing_values: Literal["refuse", "drop"] = "refuse"
    """What happens to rows with an empty prompt or answer."""
    shuffle: bool = True
    """Draw a new order each epoch, from the run's seed."""

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        chosen = [f"data.{name}" for name in ("train", *GENERATORS) if getattr(self, name) is not None]
        if len(chosen) != 1:
            raise ValueError(
                "set exactly one of data.train (files or a hub data set) and "
                f"{', '.join(f'data.{name}' for name in GENERATORS)}; set now: {', '.join(chosen) or 'none'}"
            )
        if self.train is None and self.eval is not None:
            raise ValueError(f"data.eval has no effect with {chosen[0]}, which makes its own held-out set")
        return self


class MixConfig(Section):
    """Pre-training text mixed into every update, so that the policy does not forget it (PPO-ptx)."""

    data: DataConfig
    """The text: files with a text column, or a generator."""
    sequences_per_update: int = Field(default=32, ge=1)
    """Sequences that go into one optimiser step, beside those that the stage is about."""
    max_sequence_tokens: int = Field(default=512, ge=2)
    """Their length: texts are joined, and cut to it."""
    coef: float = Field(default=1.0, gt=0)
    """Weight of their mean cross-entropy in the loss."""
