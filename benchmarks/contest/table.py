"""The contest as Markdown: a table for each case."""

from collections.abc import Sequence
from statistics import median

from benchmarks.contest.measured import PARTS, Measured

_RATES = ("s/step", "of the floor", "of trl_vllm", "tokens/s")
_HEAD = ["", *_RATES, *PARTS, "CPU s/step", "GiB", "s to first step", "rounds"]


def ratios(found: Sequence[Measured], other: str = "floor") -> dict[str, float]:
    """Of one case: the median over rounds of each contestant's step over the other's step of the same round."""
    others = {each.round: each.seconds for each in found if each.contestant == other}
    both = [each for each in found if each.round in others]
    return {
        name: median(each.seconds / others[each.round] for each in both if each.contestant == name)
        for name in dict.fromkeys(each.contestant for each in both)
    }


def table(found: Sequence[Measured]) -> str:
    """Of one case: medians over the rounds."""
    against = [ratios(found, "floor"), ratios(found, "trl_vllm")]
    lines = ["| " + " | ".join(_HEAD) + " |", "|---" * len(_HEAD) + "|"]
    for name in dict.fromkeys(each.contestant for each in found):
        own = [each for each in found if each.contestant == name]
        cells = [
            name,
            f"{median(each.seconds for each in own):.2f}",
            *(f"{each[name]:.2f}" if name in each else "-" for each in against),
            f"{median(each.tokens_per_second for each in own):.0f}",
            *(f"{median(each.parts[part] for each in own):.2f}" for part in PARTS),
            f"{median(each.cpu_seconds for each in own):.1f}",
            f"{median(each.peak_gib for each in own):.2f}",
            f"{median(each.first_step for each in own):.0f}",
            str(len(own)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(found: Sequence[Measured]) -> str:
    """A table for each case, under the machines that its figures come from."""
    blocks = ["# A step against the floor\n"]
    for case in dict.fromkeys(each.case for each in found):
        own = [each for each in found if each.case == case]
        machines = "\n".join(dict.fromkeys(each.machine for each in own))
        length = median(each.length for each in own)
        blocks.append(f"## {case}\n{machines}; {length:.0f} tokens a response\n\n{table(own)}\n")
    return "\n".join(blocks)
