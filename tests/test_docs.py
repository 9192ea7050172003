"""What the docs say can be done: commands parse or run, recipes load, keys and metrics exist, pages are there."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from cli.main import app, main
from configs.keys import ALL_STAGES, all_keys
from configs.load import load_run
from configs.schema import Run
from configs.staged import is_staged, load_staged
from docs.make_metrics import PAGE, page
from metrics.names import metric
from tests.reports.made_runs import make_run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
KEYS = set(all_keys(ALL_STAGES))
SECTIONS = {key.partition(".")[0] for key in KEYS if "." in key}


def commands() -> dict[str, Path]:
    """Each line of a page that begins with `wutong`, without its comment; those that go on are one."""
    found = {}
    for path in PAGES:
        text = "\n".join(body for _, body in BLOCK.findall(path.read_text())).replace("\\\n", " ")
        lines = [line.partition("  #")[0] for line in text.splitlines() if line.startswith("wutong ")]
        found |= {" ".join(line.split()): path for line in lines}
    return found


COMMANDS = commands()


def command_of(line: str) -> tuple[TyperCommand, list[str]]:
    group: Any = get_command(app)
    _, *words = shlex.split(re.sub(r"\$\(cat (\S+)\)", lambda found: (ROOT / found[1]).read_text(), line))
    while isinstance(group, TyperGroup):
        name = words.pop(0)
        group = group.get_command(group.make_context("wutong", [name]), name)
        assert group is not None, f"no command {name}"
    return group, words


def parsed(line: str) -> dict[str, Any]:
    """The parameters that the command would be called with."""
    command, words = command_of(line)
    return command.make_context(command.name, words).params


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_parses_and_its_recipe_loads_with_its_overrides(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    params = parsed(line)
    recipe, overrides = params.get("recipe") or params.get("file"), params.get("overrides") or ()
    if recipe is not None and Path(recipe).exists():
        (load_staged if is_staged(recipe) else load_run)(recipe, overrides)
    elif recipe is not None:
        assert str(recipe) in ("RECIPE", "FILE", "run.yaml", "mine.yaml"), "a recipe that a reader will not find"


def test_a_wrong_command_would_be_found() -> None:
    with pytest.raises(Exception, match="No such option: --folow"):
        parsed("wutong submit run.yaml --folow")
    assert len(COMMANDS) > 40


def test_the_guide_to_clusters_walks_through_the_whole_life() -> None:
    guide = [line for line, path in COMMANDS.items() if path.name == "cluster.md"]
    assert {line.split()[1] for line in guide} == {"submit", "status", "logs", "scale", "stop"}
    assert {parsed(line)["address"] for line in guide} == {"http://127.0.0.1:8265"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has after the commands before: runs, data, a rule of their own."""
    made = tmp_path_factory.mktemp("reader")
    for name in ("NAME", "A", "B", "rloo", "arithmetic-grpo", "my-run"):
        make_run(made / "runs", name, stored=(1, 12, 20))
    rows = ['{"prompt": "What is 12 * 7?", "response": "It is \\\\boxed{84}", "answer": "84"}\n'] * 4
    (made / "problems.jsonl").write_text("".join(rows))
    (made / "configs").symlink_to(ROOT / "configs")
    (rule,) = re.findall(r"```python\n(# my_rules.py\n.*?)```", (ROOT / "docs/your_reward.md").read_text(), re.DOTALL)
    (made / "my_rules.py").write_text(rule)
    (recipe,) = re.findall(r"```yaml\n(# mine.yaml\n.*?)```", (ROOT / "docs/start.md").read_text(), re.DOTALL)
    (made / "mine.yaml").write_text(recipe)
    return made


# Those that need no more than a run's folder; the others have tests of their own, with real processes.
RUN_HERE = re.compile(r"wutong (config|inspect|diff|reward|logs runs(?!.*--follow)|report(?!.*--watch))")


@pytest.mark.parametrize("line", [line for line in COMMANDS if RUN_HERE.match(line)])
def test_a_command_that_only_reads_does_what_it_says(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", shlex.split(line))
    code: object = 0
    try:
        main()
    except SystemExit as exit:
        code = exit.code or 0
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    assert said.out


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_recipes_in_a_page_are_valid(path: Path) -> None:
    for language, body in BLOCK.findall(path.read_text()):
        if language == "yaml" and re.search(r"^stage: \w+", body, re.MULTILINE):
            TypeAdapter(Run).validate_python(yaml.safe_load(body))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_keys_and_metrics_that_a_page_names_exist(path: Path) -> None:
    text = path.read_text()
    wrong = []
    for name in re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)+)(?=[`:= ])", text):
        general = re.sub(r"\.\d+", ".N", name)
        if name.partition(".")[0] in SECTIONS and not any(
            key == general or key.startswith(f"{general}.") for key in KEYS
        ):
            wrong.append(name)
    for name in re.findall(r"`([a-z]+/[a-z_]+)`", text):
        if not (ROOT / name).exists():
            try:
                metric(name)
            except ValueError:
                wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_are_there(path: Path) -> None:
    named = re.findall(
        r"(?<![\w/.])((?:docs|benchmarks|tests|configs|docker|reports|metrics|rewards)/[\w/.-]+\.\w+)", path.read_text()
    )
    assert [name for name in named if "RECIPE" not in name and not (ROOT / name).exists()] == []
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", path.read_text())
    assert [name for name in pictures if not (path.parent / name).exists()] == []


def test_the_table_of_metrics_is_the_one_of_the_code() -> None:
    assert PAGE.read_text() == page(), "python docs/make_metrics.py writes it again"
