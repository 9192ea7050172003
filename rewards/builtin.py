"""The table of built-in rewards: a name, where its function is, and what it does."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Builtin:
    """One row. `depends_on` names the fields that alone decide the verdict, which makes it cacheable."""

    target: str
    summary: str
    timeout_seconds: float | None = None
    depends_on: tuple[str, ...] = ()
    is_remote: bool = False  # asked over the network by the pool itself, rather than run in one of its processes


_TEXTS = ("prompt", "response", "answer")


def _rule(target: str, summary: str) -> Builtin:
    return Builtin(target=f"rewards.{target}", summary=summary, timeout_seconds=1.0, depends_on=_TEXTS)


BUILTINS: dict[str, Builtin] = {
    "math": _rule("math_answer:score_math", "1 when the marked answer equals the gold as mathematics"),
    "gsm8k": _rule("gsm8k:score_gsm8k", "1 when the number after the last #### is the gold number"),
    "math_gold": _rule("math_answer:score_math_gold", "1 when the gold answer can be read as mathematics"),
    "number_gold": _rule("gsm8k:score_number_gold", "1 when the gold answer is a number, after #### if that is there"),
    "same_answer": Builtin(
        target="rewards.same_answer:score_same_answer",
        summary="1 when the response is the gold's value, without a marker",
        depends_on=_TEXTS,
    ),
    "choice": _rule("choice:score_choice", "1 when the marked answer names the gold letter and no other"),
    "exact": _rule("exact:score_exact", "1 when the marked text is the gold text"),
    "number": _rule("exact:score_number", "1 when the marked number is within a tolerance of the gold"),
    "countdown": Builtin(
        target="rewards.countdown:score_countdown",
        summary="1 when the marked expression uses the given numbers and equals the target",
        timeout_seconds=1.0,
    ),
    "reasoning_gym": Builtin(
        target="rewards.gym:score_reasoning_gym",
        summary="1 when reasoning-gym's own scorer takes the marked answer for right (an extra)",
        timeout_seconds=1.0,
    ),
    "format": _rule("format_tags:score_format", "1 for one section a tag, in order (<think>, <answer>)"),
    "regex": _rule("pattern:score_regex", "1 when the response holds a pattern"),
    "json_schema": _rule("pattern:score_json_schema", "1 when the response is JSON that conforms to a schema"),
    "language": _rule("language:score_language", "the share of letters or words in the wanted script"),
    "blocklist": _rule("blocklist:score_blocklist", "1 when none of the listed words is in the response"),
    "repetition": _rule("repetition:score_repetition", "minus the share of word sequences said before"),
    "length": Builtin(target="rewards.length:score_length", summary="0 within bounds in tokens, down to -1 outside"),
    "overlong": Builtin(target="rewards.length:score_overlong", summary="soft punishment near the length limit (DAPO)"),
    "code": Builtin(
        target="rewards.code:score_code",
        summary="the share of tests that the response's program passes, in a bubblewrap sandbox",
        timeout_seconds=60.0,
    ),
    "http": Builtin(
        target="rewards.remote:RemoteReward",
        summary="what a reward server answers (`wutong reward serve`); args: url",
        is_remote=True,
    ),
}
