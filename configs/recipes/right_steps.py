"""The gold of instructgpt.yaml: how far a worked chain is right, which the data set's own solution tells exactly."""

import re
from itertools import takewhile
from typing import Any


def right_steps(item: Any) -> float:
    r"""The share of the solution's parts that the response has before its first mistake; 1.0 for all and no more.

    The parts of `2+4=6 \boxed{6}` are `2+4`, `6` and the box: each step counts, and the answer.
    """
    wanted, written = _parts(item.columns["response"]), _parts(item.response)
    right = takewhile(lambda pair: pair[0] == pair[1], zip(wanted, written, strict=False))
    return sum(1 for _ in right) / max(len(wanted), len(written))


def _parts(response: str) -> list[str]:
    return re.split(r"=| (?=\\boxed)", response.strip())
