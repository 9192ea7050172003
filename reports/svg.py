"""Pictures as inline SVG: curves, stacks and a timeline. Colours are classes, so that the page decides on them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from markupsafe import Markup, escape

from metrics.text import one_line
from reports.charts import Chart, Curve
from reports.guard_panel import GuardPanel
from reports.scale import Axis, Point, step_axis, thinned, tick_label, ticks, value_axis, whole_ticks
from reports.stacks import Stack
from reports.trace import StepTrace

WIDTH, HEIGHT = 460, 200
_TIMELINE_WIDTH = 1360
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 8, 34
_MAX_POINTS = 600
_ROW = 26  # height of a row of the timeline


def line_chart(chart: Chart) -> Markup:
    """All curves of a chart over steps, with their bands."""
    steps = [step for curve in chart.curves for step in curve.series.steps]
    values = [value for curve in chart.curves for _, value in curve.series.finite]
    values += [end for curve in chart.curves for interval in curve.band.values() for end in interval]
    across = step_axis(steps, begin=_LEFT, end=WIDTH - _RIGHT)
    up = value_axis(values, begin=HEIGHT - _BOTTOM, end=_TOP)
    drawn = [
        *_grid(across, up, chart.unit),
        *(_band(curve, across, up) for curve in chart.curves if curve.band),
        *(part for curve in chart.curves for part in _line(curve, across, up)),
    ]
    described = "; ".join(map(_described, chart.curves))
    curves = [[c.run, c.series.name, one_line(c.label), c.colour, _rounded(c.band)] for c in chart.curves]
    return _svg(
        drawn,
        label=f"{chart.title}. {described}",
        height=HEIGHT,
        data={"curves": curves, "axis": [across.begin, across.end, across.low, across.high]},
    )


def stack_chart(stack: Stack) -> Markup:
    """Layers on top of each other over steps, with a line for the whole where it is known."""
    across = step_axis(stack.steps, begin=_LEFT, end=WIDTH - _RIGHT)
    tops = list(accumulate((layer.values for layer in stack.layers), _added, initial=[0.0] * len(stack.steps)))
    up = value_axis([*tops[-1], *stack.whole.values()], begin=HEIGHT - _BOTTOM, end=_TOP, from_zero=True)
    drawn = list(_grid(across, up, stack.unit))
    for layer, below, above in zip(stack.layers, tops, tops[1:], strict=False):
        edge = [f"{across.place(s):.1f},{up.place(v):.1f}" for s, v in zip(stack.steps, above, strict=True)]
        back = [f"{across.place(s):.1f},{up.place(v):.1f}" for s, v in zip(stack.steps, below, strict=True)]
        title = _tag("title", one_line(layer.name))
        drawn.append(_tag("polygon", title, points=" ".join([*edge, *reversed(back)]), class_=f"area f{layer.colour}"))
    drawn.append(_path(list(stack.whole.items()), across, up, "whole"))
    sums = ", ".join(f"{layer.name} {sum(layer.values):.4g}" for layer in stack.layers)
    curves = [[stack.run, layer.metric, one_line(layer.name), layer.colour, {}] for layer in stack.layers]
    return _svg(
        drawn,
        label=f"{stack.title}, summed over all steps: {sums} {stack.unit}",
        height=HEIGHT,
        data={"curves": curves, "axis": [across.begin, across.end, across.low, across.high]},
    )


def guard_chart(panel: GuardPanel) -> Markup:
    """Proxy and gold with their intervals over the distance from the initial policy, and the fitted law of gold."""
    points = [point for curve in panel.curves.values() for point in curve]
    farthest = max(point.distance for point in points) or 1.0
    across = Axis(low=0.0, high=1.05 * farthest, begin=_LEFT, end=WIDTH - _RIGHT)
    up = value_axis([end for p in points for end in (p.low, p.high)], begin=HEIGHT - _BOTTOM, end=_TOP)
    drawn = list(_ground(across, up, "distance"))
    for colour, curve in enumerate(panel.curves.values()):
        drawn.append(_polyline([(p.distance, p.gain) for p in curve], across, up, f"line s{colour} d0"))
        for point in curve:
            x, title = across.place(point.distance), _tag("title", f"step {point.step}: {point.gain:.3g}")
            ends = {"y1": up.place(point.low), "y2": up.place(point.high)}
            drawn.append(_tag("line", x1=x, x2=x, **ends, class_=f"line s{colour} d0"))
            drawn.append(_tag("circle", title, cx=x, cy=up.place(point.gain), r=2.8, class_=f"dot f{colour}"))
    if panel.law is not None:
        grid = [farthest * number / 100 for number in range(101)]
        law = [(d, gain) for d in grid if up.low <= (gain := panel.law.gain(d)) <= up.high]
        drawn.append(_polyline(law, across, up, "line s1 d2"))
    lasts = "; ".join(
        f"{name}: {curve[-1].gain:.3g} at distance {curve[-1].distance:.3g}" for name, curve in panel.curves.items()
    )
    return _svg(drawn, label=f"{panel.title}. {lasts}. {panel.meaning}", height=HEIGHT)


def timeline(trace: StepTrace) -> Markup:
    """One step: a row for each lane, a bar for each span."""
    height = _TOP + _ROW * len(trace.lanes) + _BOTTOM
    across = Axis(low=0.0, high=trace.seconds, begin=_LEFT + 30, end=_TIMELINE_WIDTH - _RIGHT)
    drawn = []
    for tick in ticks(across, 8):
        x = across.place(tick)
        drawn += [_tag("line", x1=x, x2=x, y1=_TOP, y2=height - _BOTTOM, class_="grid")]
        drawn += [_tag("text", tick_label(tick, "s"), x=x, y=height - 18, class_="tick middle")]
    drawn.append(_tag("text", "seconds", x=_TIMELINE_WIDTH - _RIGHT, y=height - 4, class_="tick end"))
    for number, lane in enumerate(trace.lanes):
        y = _TOP + _ROW * number
        drawn.append(_tag("text", one_line(lane.name), x=_LEFT + 22, y=y + 17, class_="tick end"))
        for span in lane.spans:
            title = _tag("title", one_line(f"{span.name}: {span.end - span.start:.4g} s, from {span.start:.4g} s"))
            x, right = across.place(span.start), across.place(span.end)
            bar = {"x": x, "y": y + 4, "width": max(right - x, 1.0), "height": _ROW - 8, "rx": 2}
            drawn.append(_tag("rect", title, **bar, class_=f"area f{span.colour}"))
    label = f"One step of {trace.seconds:.4g} seconds: " + "; ".join(map(str, trace.lanes))
    return _svg(drawn, label=label, height=height, width=_TIMELINE_WIDTH)


def _ground(across: Axis, up: Axis, name: str) -> Iterator[Markup]:
    """Two axes of plain numbers; `name`: of the lower one."""
    for tick in ticks(up):
        y = up.place(tick)
        yield _tag("line", x1=across.begin, x2=across.end, y1=y, y2=y, class_="grid")
        yield _tag("text", tick_label(tick, ""), x=across.begin - 6, y=y + 4, class_="tick end")
    for tick in ticks(across):
        yield _tag("text", tick_label(tick, ""), x=across.place(tick), y=HEIGHT - _BOTTOM + 16, class_="tick middle")
    yield _tag("text", name, x=across.end, y=HEIGHT - 3, class_="tick end")


def _polyline(points: Sequence[tuple[float, float]], across: Axis, up: Axis, class_: str) -> Markup:
    path = "L".join(f"{across.place(x):.1f} {up.place(y):.1f}" for x, y in points)
    return _tag("path", d=f"M{path}" if path else "", class_=class_)


def _grid(across: Axis, up: Axis, unit: str) -> Iterator[Markup]:
    for tick in ticks(up):
        y = up.place(tick)
        yield _tag("line", x1=across.begin, x2=across.end, y1=y, y2=y, class_="grid")
        yield _tag("text", tick_label(tick, unit), x=across.begin - 6, y=y + 4, class_="tick end")
    for tick in whole_ticks(across):
        yield _tag("text", f"{tick:.0f}", x=across.place(tick), y=HEIGHT - _BOTTOM + 16, class_="tick middle")
    yield _tag("text", "step", x=across.end, y=HEIGHT - 3, class_="tick end")


def _line(curve: Curve, across: Axis, up: Axis) -> Iterator[Markup]:
    points = thinned(list(zip(curve.series.steps, curve.series.values, strict=True)), _MAX_POINTS)
    yield _path(points, across, up, f"line s{curve.colour % 8} d{curve.dash % 4}")
    neighbours = [None, *(value for _, value in points), None]
    for place, (step, value) in enumerate(points):
        is_alone = neighbours[place] is None and neighbours[place + 2] is None
        # A point between gaps has no line, and few points are measurements far apart.
        if value is not None and (is_alone or len(points) <= 24):
            yield _tag("circle", cx=across.place(step), cy=up.place(value), r=2.4, class_=f"dot f{curve.colour % 8}")
        elif value is None:
            yield _tag("text", "×", x=across.place(step), y=up.begin - 2, class_="gap middle")  # not finite


def _path(points: Sequence[Point], across: Axis, up: Axis, class_: str) -> Markup:
    """A line that breaks where a value is missing."""
    parts, pen = [], "M"
    for step, value in points:
        if value is None:
            pen = "M"
            continue
        parts.append(f"{pen}{across.place(step):.1f} {up.place(value):.1f}")
        pen = "L"
    return _tag("path", d="".join(parts), class_=class_)


def _band(curve: Curve, across: Axis, up: Axis) -> Markup:
    steps = sorted(curve.band)
    lows = dict(thinned([(step, curve.band[step][0]) for step in steps], _MAX_POINTS))
    highs = dict(thinned([(step, curve.band[step][1]) for step in steps], _MAX_POINTS))
    edge = list(highs.items()) + [(step, low) for step, low in reversed(lows.items())]
    points = " ".join(f"{across.place(s):.1f},{up.place(v):.1f}" for s, v in edge if v is not None)
    return _tag("polygon", points=points, class_=f"band f{curve.colour % 8}")


def _described(curve: Curve) -> str:
    """The curve in words."""
    finite = curve.series.finite
    if not finite:
        return f"{curve.label}: no finite value"
    (first, begin), (last, end) = finite[0], finite[-1]
    values = [value for _, value in finite]
    return (
        f"{curve.label}: {begin:.4g} at step {first}, {end:.4g} at step {last}, "
        f"between {min(values):.4g} and {max(values):.4g}"
    )


def _rounded(band: Mapping[int, tuple[float, float]]) -> dict[int, list[str]]:
    """For reading beside the pointer."""
    return {step: [f"{end:.4g}" for end in band[step]] for step, _ in thinned([(s, 0.0) for s in sorted(band)], 2000)}


def _added(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip(left, right, strict=True)]


def _svg(parts: Sequence[Markup], *, label: str, height: float, width: float = WIDTH, data: object = None) -> Markup:
    content = Markup("").join(parts)
    extra = {} if data is None else {"data-chart": json.dumps(data), "tabindex": 0}
    return _tag(
        "svg", content, viewBox=f"0 0 {width} {height:.0f}", role="img", aria_label=one_line(label, 2000), **extra
    )


def _tag(name: str, content: str = "", /, **attributes: object) -> Markup:
    """One element; attribute values are escaped, `content` unless it is markup."""
    texts = (
        f'{key.rstrip("_").replace("aria_", "aria-")}="{escape(_shown(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{name} {' '.join(texts)}>{escape(content)}</{name}>")


def _shown(value: object) -> object:
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
