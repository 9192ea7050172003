"""From numbers to places and labels: axes with round ticks, and curves thinned to what a screen shows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[int, float | None]  # step and value; None breaks the line


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Maps low..high to the pixels begin..end."""

    low: float
    high: float
    begin: float
    end: float

    def place(self, value: float) -> float:
        """The pixel of a value."""
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)


def value_axis(values: Sequence[float], *, begin: float, end: float, from_zero: bool = False) -> Axis:
    """An axis that holds all values with a little air. One value alone stands in its middle, 0 at its foot."""
    low, high = (min(values), max(values)) if any(values) else (0.0, 1.0)
    if from_zero or (low >= 0 and low < 0.3 * high):
        low = min(low, 0.0)
    if low == high:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    air = 0.05 * (high - low)
    return Axis(low=low if low == 0 else low - air, high=high + air, begin=begin, end=end)


def step_axis(steps: Sequence[int], *, begin: float, end: float) -> Axis:
    """An axis from the first to the last step."""
    low, high = (min(steps), max(steps)) if steps else (0, 1)
    return Axis(low=low, high=max(high, low + 1), begin=begin, end=end)


def ticks(axis: Axis, most: int = 5) -> list[float]:
    """Round values inside the axis: multiples of 1, 2 or 5 times a power of ten."""
    rough = (axis.high - axis.low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(axis.low / size - 1e-9), math.floor(axis.high / size + 1e-9)
    return [number * size for number in range(first, last + 1)]


def whole_ticks(axis: Axis, most: int = 6) -> list[float]:
    """Round values that are whole numbers, for steps."""
    return sorted({float(round(tick)) for tick in ticks(axis, most)})


def tick_label(value: float, unit: str) -> str:
    """A short label: shares in percent, thousands as k, small numbers by their power of ten."""
    if unit == "share":
        return f"{value * 100:.4g} %"
    size = abs(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            divisor = 1e3 if letter == "k" else limit
            return f"{value / divisor:.4g}{letter}"
    if 0 < size < 1e-3:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    return f"{value:.4g}"


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` of the points: the lowest and the highest of each stretch, so that no peak is lost.

    Gaps and both ends stay.
    """
    if len(points) <= most:
        return list(points)
    length = math.ceil(2 * len(points) / most)
    kept = {0, len(points) - 1}
    for begin in range(0, len(points), length):
        stretch = range(begin, min(begin + length, len(points)))
        finite = [(value, place) for place in stretch if (value := points[place][1]) is not None]
        kept |= {min(finite)[1], max(finite)[1]} if finite else set()
        kept |= {place for place in stretch if points[place][1] is None}
    return [points[place] for place in sorted(kept)]
