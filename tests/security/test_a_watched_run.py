"""Promises 1, 2, 4, 5, 13, 15 and 17, looked for in one real run that has no network but the loopback.

Its rollout worker samples without a model (tests/actors/light_engine.py); Ray, DeepSpeed and all else are real.
"""

import json
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.actors.tiny_policies import make_policy
from tests.cluster.small_runs import BRAKED_RULE
from tests.cluster.starts import ROOT

pytestmark = pytest.mark.slow

TOKEN = secrets.token_hex(32)
CANARIES = {
    "HF_TOKEN": "canary-of-the-hub",
    "WANDB_API_KEY": "canary-of-wandb",
    "AWS_SECRET_ACCESS_KEY": "canary-of-a-cloud",
    "WUTONG_CHECKPOINT_KEY": "canary-that-signs-checkpoints-0123",
}
LITERAL = "canary-in-the-recipe"
ALL_CANARIES = (*CANARIES.values(), LITERAL, TOKEN)
# Where the loopback is the only network: bubblewrap brings it up, and nothing else is changed.
OFFLINE = ["bwrap", "--dev-bind", "/", "/", "--unshare-net", "--die-with-parent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A run that is over, and what was seen of it."""

    folder: Path
    seen: dict[str, Any]

    @property
    def output(self) -> Path:
        return self.folder / "runs" / "run"

    def files(self) -> list[Path]:
        return [path for path in self.output.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    make_policy(folder / "model")
    rows = [{"prompt": f"{number} + 1 =", "answer": str(number + 1)} for number in range(20)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rules.py").write_text(BRAKED_RULE.replace("item, folder", "item, folder, api_key, token"))
    (folder / "run.yaml").write_text(yaml.safe_dump(recipe(folder)))
    seen = folder / "seen.json"
    command = [sys.executable, "-m", "tests.security.watched_run", str(folder), str(seen), TOKEN]
    is_offline = shutil.which("bwrap") is not None
    subprocess.run(
        [*(OFFLINE if is_offline else []), *command],
        cwd=ROOT,
        env=environment(folder),
        check=True,
        timeout=400,
        umask=0o002,
    )
    yield Watched(folder=folder, seen={**json.loads(seen.read_text()), "is_offline": is_offline})


def recipe(folder: Path) -> dict[str, Any]:
    secret = {"folder": str(folder), "api_key": LITERAL, "token": "${env:HF_TOKEN}"}
    return {
        "stage": "rl",
        "name": "run",
        "output_dir": "runs",
        "num_steps": 6,
        "model": {"path": "model"},
        "data": {"train": "prompts.jsonl", "max_prompt_tokens": 24},
        "trainer": {"num_ranks": 2, "zero_stage": 1, "tokens_per_micro_batch": 512},
        "rollout": {"prompts_per_step": 4, "group_size": 2, "sampling": {"max_response_tokens": 16}},
        "rewards": [{"use": "./rules.py:parity", "args": secret}],
        "algorithm": {"name": "grpo", "kl_coef": 0},
        "checkpoint": {"every_steps": 1},
        "cluster": {"dashboard": True},
    }


def environment(folder: Path) -> dict[str, str]:
    (folder / "home").mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HF_", "XDG_"))}
    hostile = {"RAY_AUTH_MODE": "disabled", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    place = {"HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": TOKEN}
    return inherited | CANARIES | hostile | place


def test_it_ends_well_without_any_network(watched: Watched) -> None:
    """Promise 17. Where bubblewrap is missing the run has a network, and shows only that it ends well."""
    assert watched.seen["code"] == 0, (watched.folder / "stderr").read_text()
    assert watched.seen["interfaces"] == ["lo"] or not watched.seen["is_offline"]
    assert (watched.output / "export" / "model.safetensors").is_file()


def test_no_library_tells_its_makers(watched: Watched) -> None:
    """Promise 17: in the actors, and in the processes of Ray, which inherit the driver's environment."""
    off = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
    }
    environments = watched.seen["environments"]
    ours = [name for name in environments if is_actor(name) or "/raylet " in name]
    assert len(ours) >= 4, list(environments)
    for name in ours:
        assert {key: environments[name].get(key) for key in off} == off, name


def is_actor(name: str) -> bool:
    return name.lower().startswith(("ray::trainer", "ray::rollout"))


def test_the_local_cluster_asked_for_a_token_and_gave_nothing_away(watched: Watched) -> None:
    """Promise 1, though RAY_AUTH_MODE=disabled stood in the environment. The token is in no file."""
    assert watched.seen["posted"] == 401
    assert len(json.loads(watched.seen["jobs"])) >= 1
    assert list((watched.folder / "home").rglob("auth_token")) == []


def test_nothing_of_ours_listens_beyond_its_node(watched: Watched) -> None:
    """Promise 2: our processes listen on the loopback or the node's own address. Ray's servers are Ray's."""
    assert any("gcs_server" in name for name in watched.seen["listeners"])
    ours = {name: places for name, places in watched.seen["listeners"].items() if is_ours(name)}
    open_to_all = {name: [place for place in places if place[0] in ("0.0.0.0", "::")] for name, places in ours.items()}
    # Where there is a network, Ray's own server in the process of each actor listens on all addresses.
    assert {name: places for name, places in open_to_all.items() if places} == {} or not watched.seen["is_offline"]


def is_ours(name: str) -> bool:
    return not any(part in name for part in ("site-packages/ray/", "ray::Dashboard", "ray::RuntimeEnvAgent"))


def test_a_worker_keeps_pickles_out_of_vllm_whatever_the_environment_says(watched: Watched) -> None:
    """Promise 3."""
    workers = [name for name in watched.seen["environments"] if name.lower().startswith("ray::rollout")]
    assert workers
    for name in workers:
        assert watched.seen["environments"][name]["VLLM_ALLOW_INSECURE_SERIALIZATION"] == "0"


def test_the_only_pickles_are_deepspeeds_shards(watched: Watched) -> None:
    """Promise 4."""
    pickles = [path for path in watched.files() if is_pickle(path)]
    assert pickles
    for path in pickles:
        assert path.parent.name == "policy" and path.parents[2].name == "checkpoints", path


def is_pickle(path: Path) -> bool:
    start = path.read_bytes()[:4]
    return start[:1] == b"\x80" or start == b"PK\x03\x04"


def test_no_secret_is_written_said_or_shown(watched: Watched) -> None:
    """Promise 13: in the run's folder, on stderr, in Ray's list of jobs, in the arguments of a process."""
    stderr = (watched.folder / "stderr").read_text()
    places = {str(path): path.read_bytes().decode(errors="replace") for path in watched.files()}
    places |= {"stderr": stderr, "jobs": watched.seen["jobs"], "commands": "\n".join(watched.seen["commands"])}
    assert [(place, canary) for place, text in places.items() for canary in ALL_CANARIES if canary in text] == []
    assert "${env:HF_TOKEN}" in (watched.output / "config.yaml").read_text()
    assert re.search(r"rewards\.0\.args\.api_key \(run\.yaml:\d+\): a secret written out", " ".join(stderr.split()))


def test_files_are_for_their_user_and_group(watched: Watched) -> None:
    """Promise 15, though the user's umask was 002."""
    wide = [path for path in (watched.output, *watched.output.rglob("*")) if stat.S_IMODE(path.stat().st_mode) & 0o027]
    assert wide == []


def test_another_users_key_does_not_open_the_checkpoint(watched: Watched) -> None:
    """Promise 5: one line, before anything starts."""
    env = environment_of_another(watched)
    command = [str(Path(sys.executable).with_name("wutong")), "train", "run.yaml", "--resume"]
    refused = subprocess.run(command, cwd=watched.folder, env=env, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    last = refused.stderr.strip().splitlines()[-1]
    assert last.endswith("if you trust whoever wrote them, add --trust-checkpoint")
    assert "step_000006/manifest.json: not signed with your key (WUTONG_CHECKPOINT_KEY)" in last


def environment_of_another(watched: Watched) -> dict[str, str]:
    changes = {
        "HOME": str(watched.folder / "home"),
        "WUTONG_CHECKPOINT_KEY": "f" * 64,
        "HF_TOKEN": CANARIES["HF_TOKEN"],
    }
    return {**os.environ, **changes}
