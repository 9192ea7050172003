"""The report in a real browser: quiet, self-contained, exact, safe, and legible by day and night."""

import json
import re
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from reports.page import MAX_STEPS, render, write_page
from reports.run_data import RunData, read_run, read_runs
from tests.chromium import Chromium, Page, chromium, needs_chromium
from tests.reports.made_runs import learning, make_run

HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=2>\u202egold\x1b[31m"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser: Chromium) -> Iterator[Page]:
    with browser.page() as tab:
        yield tab


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunData]:
    folder = tmp_path_factory.mktemp("runs")
    stored = tuple(range(1, 201, 20))
    long = ("yes it is 7", HOSTILE + "x" * 20_000)
    return read_runs(
        [make_run(folder, "first", num_steps=200, stored=stored, texts=long), make_run(folder, "second", seed=3)]
    )


def page_of(runs: list[RunData], folder: Path, **options: Any) -> Path:
    write_page(runs, folder / "report.html", **options)
    return folder / "report.html"


def embedded(html: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@needs_chromium
@pytest.mark.parametrize("count", [1, 2])
def test_the_page_complains_of_nothing_and_asks_for_nothing(
    tab: Page, runs: list[RunData], tmp_path: Path, count: int
) -> None:
    page = page_of(runs[:count], tmp_path)
    tab.open(page.as_uri())
    charts = tab.js("document.querySelectorAll('svg[role=img]').length")
    assert charts >= 12
    assert tab.console == []
    assert {url for url in tab.requests if not url.startswith("data:")} == {page.as_uri()}


def test_a_page_of_200_steps_is_light(runs: list[RunData], tmp_path: Path) -> None:
    assert page_of(runs, tmp_path).stat().st_size < 1_500_000


def test_the_numbers_are_those_of_the_record(runs: list[RunData]) -> None:
    for run, shown in zip(runs, embedded(render(runs)), strict=True):
        rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "time"))
        assert list(shown["metrics"]) == list(names)
        for name in names:
            column = shown["metrics"][name]
            pairs = list(zip(shown["steps"][column["steps"]], column["values"], strict=True))
            assert pairs == [(row["step"], row[name]) for row in rows if name in row]


@needs_chromium
def test_the_table_has_all_digits(tab: Page, runs: list[RunData], tmp_path: Path) -> None:
    tab.open(page_of(runs[:1], tmp_path).as_uri())
    cells = tab.js(
        "[...document.querySelectorAll('#metrics tbody tr')].map(row => [row.cells[0].textContent, "
        "...[...row.querySelectorAll('data')].map(cell => [cell.value, cell.textContent])])"
    )
    assert len(cells) == len(runs[0].series)
    for name, *numbers in cells:
        values = [value for _, value in runs[0].series[name].finite]
        assert [float(value) for value, _ in numbers] == [values[0], values[-1], min(values), max(values)]
        assert all(value == text for value, text in numbers)


@needs_chromium
def test_values_are_read_off_a_chart_by_arrow_keys(tab: Page, runs: list[RunData], tmp_path: Path) -> None:
    tab.open(page_of(runs[:1], tmp_path).as_uri())
    tab.js("document.querySelector('svg[data-chart]').focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        tab.press(key)
    reading = tab.js("document.getElementById('reading').innerText")
    assert "step 2" in reading
    assert f"{learning(2)['reward/mean']:.6g}" in reading
    tab.press("Escape")
    assert tab.js("document.getElementById('reading').hidden")


@needs_chromium
def test_hostile_text_is_shown_and_does_nothing(tab: Page, tmp_path: Path) -> None:
    def named(step: int) -> dict[str, float]:
        return {"reward/mean": 0.5, f"reward/{HOSTILE}": 1.0}

    place = make_run(tmp_path, metrics=named, texts=(HOSTILE,), model={"path": HOSTILE[:60]})
    place = place.rename(tmp_path / "<img src=x onerror=window.pwned=3>")
    tab.open(page_of([read_run(place)], tmp_path).as_uri())
    time.sleep(0.2)
    assert tab.js("window.pwned === undefined && document.images.length === 0")
    assert tab.console == []
    shown = tab.js("document.querySelector('.response').textContent")
    assert shown.startswith(HOSTILE.partition("\u202e")[0] + "⟨U+202E⟩gold␛[31m")
    assert "\u202e" not in tab.js("document.body.innerText")


@needs_chromium
def test_the_page_reads_itself_anew_while_it_is_watched(tab: Page, tmp_path: Path) -> None:
    def shown() -> str:
        return tab.js("document.querySelector('.tiles dd').textContent")

    make_run(tmp_path, "early", num_steps=10, stored=(1,))
    make_run(tmp_path, "late", num_steps=20, stored=(1,))
    tab.open(page_of([read_run(tmp_path / "early")], tmp_path, reload_seconds=1).as_uri())
    assert shown() == "10"
    page_of([read_run(tmp_path / "late")], tmp_path)
    deadline = time.monotonic() + 20
    while shown() != "20" and time.monotonic() < deadline:
        time.sleep(0.3)
    assert shown() == "20"


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio of two `rgb(...)` colours."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_curves_are_legible(tab: Page, runs: list[RunData], tmp_path: Path, scheme: str) -> None:
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.open(page_of(runs, tmp_path).as_uri())

    def style(selector: str, name: str) -> str:
        return tab.js(f"getComputedStyle(document.querySelector('{selector}'))['{name}']")

    card, page = style(".card", "backgroundColor"), style("body", "backgroundColor")
    assert (contrast(page, "rgb(255, 255, 255)") < 1.2) == (scheme == "light")
    for selector in ("main", ".muted", "a[href]"):
        assert contrast(style(selector, "color"), page) >= 4.5, selector
    assert contrast(style(".meaning", "color"), card) >= 4.5
    for number in range(8):  # of graphics WCAG asks 3
        assert contrast(tab.js(f"""(() => {{
            const mark = document.createElement("i"); mark.className = "swatch f{number}"; document.body.append(mark);
            return getComputedStyle(mark).backgroundColor; }})()"""), card) >= 3, number  # fmt: skip


@needs_chromium
def test_charts_are_named_and_reachable_and_the_page_fits_a_phone(
    tab: Page, runs: list[RunData], tmp_path: Path
) -> None:
    tab.open(page_of(runs, tmp_path).as_uri())
    labels = tab.js("[...document.querySelectorAll('svg[role=img]')].map(svg => svg.ariaLabel)")
    assert all(re.search(r"\d", label) for label in labels)
    assert f"{learning(1)['reward/mean']:.4g} at step 1" in labels[0]
    tab.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=False)
    assert tab.js("document.documentElement.scrollWidth") <= 390


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_mend(tab: Page, runs: list[RunData], tmp_path: Path, scheme: str) -> None:
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.open(page_of(runs, tmp_path).as_uri())
    tab.js((files("axe_playwright_python") / "axe.min.js").read_text())
    found = tab.js("axe.run().then(found => found.violations.map(one => [one.id, one.nodes[0].html]))")
    assert found == []


def test_a_run_before_its_first_step_has_a_page(tmp_path: Path) -> None:
    place = make_run(tmp_path, num_steps=0, stored=(), is_over=False)
    assert "No rule speaks; they need 8 steps or more" in render([read_run(place)])


def test_what_never_changes_is_a_line_of_text_and_no_chart(tmp_path: Path) -> None:
    html = render([read_run(make_run(tmp_path))])
    assert re.search(r"The same at every step:.*?Responses cut <b>2 %</b>", html)
    assert "<b>Responses cut</b>" not in html
    assert "<b>Entropy</b>" in html


def test_a_long_run_is_thinned_to_points_that_are_its_own(tmp_path: Path) -> None:
    place = make_run(
        tmp_path, num_steps=3 * MAX_STEPS, stored=(), metrics=lambda step: {"reward/mean": float(step == 4321)}
    )
    run = read_run(place)
    (shown,) = embedded(render([run]))
    column = shown["metrics"]["reward/mean"]
    assert len(column["values"]) <= MAX_STEPS + 2
    pairs = dict(zip(shown["steps"][column["steps"]], column["values"], strict=True))
    assert pairs[4321] == 1.0 and pairs.items() <= run.series["reward/mean"].by_step.items()


def test_a_metric_that_no_chart_names_has_one_of_its_own(tmp_path: Path) -> None:
    place = make_run(tmp_path, metrics=lambda step: {"eval/reward_std": 0.1 * step, "from/tomorrow": 1.0 / step})
    html = render([read_run(place)])
    assert "<b>eval/reward_std</b>" in html and "<b>from/tomorrow</b>" in html
    assert "from/tomorrow: not in this version&#39;s table of metrics" in html
