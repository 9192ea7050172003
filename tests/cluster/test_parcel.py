"""What a submitted job takes along, and what it must not."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.parcel import LARGEST_FILE_BYTES, PACKAGES, Parcel, pack
from configs.load import load_run
from tests.cluster.starts import ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("rules/my_rules.py", "rules/words.py", "rules/more/__init__.py", "rules/more/deep.py", "data/a.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    for name in (".env", ".git/config", "rules/.env", "rules/server.pem", "rules/id_rsa.py", "rules/notes/list.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("canary")
    return tmp_path


def packed(folder: Path, *overrides: str, include: tuple[str, ...] = (), **changes: Any) -> Parcel:
    recipe: dict[str, Any] = {
        "stage": "rl",
        "name": "mine",
        "output_dir": "/mnt/runs",
        "num_steps": 1,
        "model": {"path": "/mnt/model"},
        "data": {"train": "data/a.jsonl"},
        "rewards": [{"use": "./rules/my_rules.py:f"}],
        **changes,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(recipe))
    run = load_run("run.yaml", overrides)
    return pack(run, Path("run.yaml"), overrides, [Path(each) for each in include])


def users_files(parcel: Parcel) -> set[str]:
    return {str(item.target) for item in parcel.items if item.target.parts[0] == "job"}


def test_what_the_recipe_names_travels_with_the_modules_beside_it_and_no_secret(folder: Path) -> None:
    parcel = packed(folder)
    rules = ("my_rules.py", "words.py", "more/__init__.py", "more/deep.py")
    assert users_files(parcel) == {"job/run.yaml", "job/data/a.jsonl", *(f"job/rules/{name}" for name in rules)}
    assert [(str(file.relative_to(folder)), reason) for file, reason in parcel.left_out] == [
        ("rules/id_rsa.py", "hidden, or by its name a secret")
    ]


def test_our_packages_travel_whole_and_nothing_else_of_the_checkout(folder: Path) -> None:
    ours = {item.target for item in packed(folder).items if item.target.parts[0] != "job"}
    assert {target.parts[0] for target in ours} == set(PACKAGES)
    for package in PACKAGES:
        files = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.is_file()}
        assert {f for f in files if "__pycache__" not in f.parts} == {Path(t) for t in ours if t.parts[0] == package}
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(PACKAGES) == {name for name in configured if "." not in name}


def test_laying_out_makes_the_files_at_their_places(folder: Path, tmp_path: Path) -> None:
    packed(folder).lay_out(tmp_path / "out")
    assert (tmp_path / "out" / "job" / "rules" / "words.py").read_text() == "x = 1\n"
    assert (tmp_path / "out" / "cluster" / "parcel.py").read_bytes() == (ROOT / "cluster" / "parcel.py").read_bytes()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.read_text() == "canary"]


def test_more_is_sent_when_it_is_asked_for(folder: Path) -> None:
    parcel = packed(folder, include=("rules/notes", "rules"))
    assert "job/rules/notes/list.txt" in users_files(parcel)
    assert {str(file.relative_to(folder)) for file, _ in parcel.left_out} == {
        "rules/id_rsa.py",
        "rules/.env",
        "rules/server.pem",
    }


def test_absolute_paths_are_the_clusters(folder: Path) -> None:
    changes = {"data": {"train": "/mnt/a.parquet"}, "rewards": [{"use": "/mnt/rules.py:f"}]}
    assert users_files(packed(folder, **changes)) == {"job/run.yaml"}


@pytest.mark.parametrize(
    ("changes", "include", "words"),
    [
        ({"output_dir": "runs"}, (), "output_dir=runs is relative, and a job's own folder is deleted with it"),
        ({"model": {"path": "rules"}}, (), "model.path=rules is a folder here, and models are not sent"),
        ({"data": {"train": "b.jsonl"}}, (), "b.jsonl: no such file or folder"),
        ({"rewards": [{"use": "./none.py:f"}]}, (), "rewards.0.use: there is no file none.py here"),
        ({"rewards": [{"use": "../x/rules.py:f"}]}, (), "rewards.0.use: there is no file ../x/rules.py here"),
        ({}, (".env",), r"--include: \.env can't be sent: it is hidden"),
        ({}, (".git",), r"--include: \.git can't be sent: it is hidden"),
        ({}, ("rules/server.pem",), r"rules/server\.pem can't be sent: hidden, or by its name a secret"),
        ({}, ("..",), r"--include: \.\. is outside of"),
        ({"rewards": [{"use": "math", "args": {"key": "12345"}}]}, (), r"rewards\.0\.args\.key \(run\.yaml:\d+\) "),
    ],
)  # fmt: skip
def test_what_can_not_travel_is_refused_in_one_line(
    folder: Path, changes: dict[str, Any], include: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        packed(folder, include=include, **changes)
    assert "\n" not in str(refused.value)


def test_secrets_of_the_environment_do_not_travel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary_12345")
    packed(folder, "data.system_prompt=${env:HF_TOKEN}")  # filled on the cluster
    with pytest.raises(ValueError, match=r"data\.system_prompt \(command line\) holds a secret"):
        packed(folder, "data.system_prompt=hf_canary_12345")
    (folder / "rules" / "words.py").write_text("key = 'hf_canary_12345'\n")
    with pytest.raises(ValueError, match=r"rules/words\.py:1 holds a secret") as refused:
        packed(folder)
    assert "canary" not in str(refused.value)


def test_links_that_lead_elsewhere_are_left_out(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.py"
    secret.write_text("canary = 1\n")
    (folder / "rules" / "linked.py").symlink_to(secret)
    (folder / "rules" / "folder").symlink_to(secret.parent)
    (folder / "rules" / "near.py").symlink_to(folder / "rules" / "words.py")
    parcel = packed(folder, include=("rules",))
    assert "job/rules/near.py" in users_files(parcel)
    assert not {"job/rules/linked.py", "job/rules/folder/secret.py"} & users_files(parcel)
    assert (folder / "rules" / "linked.py", "a link that leads elsewhere") in parcel.left_out


def test_large_files_are_not_sent(folder: Path) -> None:
    with (folder / "data" / "a.jsonl").open("wb") as file:
        file.truncate(LARGEST_FILE_BYTES + 1)
    with pytest.raises(ValueError, match=r"data/a\.jsonl can't be sent: 32\.0 MiB, at most 32\.0 MiB are sent"):
        packed(folder)
