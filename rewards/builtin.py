"""The table of built-in rewards: a name, where its function is, and what it does."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Builtin:
    """One row. `depends_on` names the fields that alone decide the verdict, which makes it cacheable."""

    target: str
    summary: str
    timeout_seconds: float | None = None
    depends_on: tuple[str, ...] = ()


_TEXTS = ("response", "answer")

BUILTINS: dict[str, Builtin] = {
    "math": Builtin(
        target="rewards.math_answer:score_math",
        summary="1 when the marked answer equals the gold answer as mathematics, else 0",
        timeout_seconds=1.0,
        depends_on=("prompt", *_TEXTS),
    ),
}
