"""What a submitted job takes along: our packages, and the files of the user's that its recipe names.

    actors/ algorithms/ ... trainers/      our packages, first on the path of every process of the job
    job/                                   the user's files, at the paths that the recipe names; the driver starts here

No process has `job/` on its path, so nothing in it takes the place of a module of ours.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from algorithms.plugins import is_path
from configs.overrides import apply_overrides
from configs.redaction import redact
from configs.schema import DataConfig, RewardSpec, RlRun, Run, SftRun
from configs.yaml_source import read_recipe
from experience.dataset import find_files

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGES: Final = (
    "actors", "algorithms", "cli", "cluster", "configs", "experience", "feedback", "metrics", "reports", "rewards",
    "trainers",
)  # fmt: skip
JOB: Final = "job"
LARGEST_FILE_BYTES: Final = 32 << 20
LARGEST_PARCEL_BYTES: Final = 256 << 20  # Ray holds it in the head's memory

_UNWANTED_FOLDERS = {"__pycache__", "runs", "outputs", "wandb", "node_modules"}
_SECRET_SUFFIXES = {".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".env"}
_SECRET_NAMES = ("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "auth_token", "credentials")
_TEXT_SUFFIXES = {".py", ".yaml", ".yml", ".json", ".jinja", ".toml", ".cfg", ".ini", ".txt", ".md"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One file: where it is here, and where in the job's folder."""

    source: Path
    target: PurePosixPath
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """Everything that travels. `recipe`: its path under `job/`; `left_out`: what was found and why it stays."""

    items: tuple[Item, ...]
    recipe: PurePosixPath
    left_out: tuple[tuple[Path, str], ...]

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(item.num_bytes for item in self.items)

    def lay_out(self, folder: Path) -> None:
        """Copy everything to its place under `folder`."""
        for item in self.items:
            place = folder / item.target
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(item.source, place)


def pack(run: Run, recipe: Path, overrides: Sequence[str], include: Sequence[Path] = ()) -> Parcel:
    """The parcel of a run whose recipe is loaded from the current folder; `include`: more files and folders of it.

    ValueError, in one line, for what can't travel: files that are not there, secrets, what is too large, what lies
    outside of the current folder, and relative paths of what must be on the cluster already.
    """
    _check_storage(run)
    _check_recipe(recipe, overrides)
    packer = _Packer(Path.cwd())
    at = packer.recipe(recipe)
    for key, name in _code_files(run):
        packer.code(key, Path(name))
    for key, name in _data_files(run):
        packer.named(key, find_files(name) if key != "data.chat_template" else [Path(name)])
    for path in include:
        packer.named("--include", [path])
    ours = [item for package in PACKAGES for item in _package(package)]
    parcel = Parcel(items=(*ours, *packer.items.values()), recipe=at, left_out=tuple(packer.left_out))
    if parcel.num_bytes > LARGEST_PARCEL_BYTES:
        raise ValueError(
            f"{sized(parcel.num_bytes)} to send, at most {sized(LARGEST_PARCEL_BYTES)}; put data on storage that every "
            "node sees, and name it by its absolute path there"
        )
    return parcel


class _Packer:
    """Collects the user's files, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.items: dict[PurePosixPath, Item] = {}
        self.left_out: list[tuple[Path, str]] = []

    def recipe(self, path: Path) -> PurePosixPath:
        """Under its own relative path, or, from elsewhere, under its name."""
        is_inside = path.resolve().is_relative_to(self._folder.resolve())
        target = PurePosixPath(path.resolve().relative_to(self._folder.resolve()) if is_inside else path.name)
        self._add(path, target)
        return target

    def code(self, key: str, path: Path) -> None:
        """A file of Python, and what it may import: the modules and packages beside it."""
        target = self._named_file(key, path)
        for helper in _modules_beside(self._folder / path):
            place = target.parent / PurePosixPath(helper.relative_to((self._folder / path).parent))
            if reason := _unfit(helper):
                self.left_out.append((helper, reason))
            else:
                self._add(helper, place)

    def named(self, key: str, paths: Iterable[Path]) -> None:
        """Files, and folders with all that is in them."""
        for path in paths:
            if any(part.startswith(".") and part != ".." for part in path.parts):
                raise ValueError(f"{key}: {path} can't be sent: it is hidden")
            if not (self._folder / path).is_dir():
                self._named_file(key, path)
                continue
            target = self._target(key, path)
            for file in _files_under(self._folder / path):
                if reason := _unfit(file):
                    self.left_out.append((file, reason))
                else:
                    self._add(file, target / PurePosixPath(file.relative_to(self._folder / path)))

    def _named_file(self, key: str, path: Path) -> PurePosixPath:
        file = self._folder / path
        if not file.is_file():
            raise ValueError(f"{key}: there is no file {path} here (looked in {self._folder})")
        if reason := _unfit(file):
            raise ValueError(f"{key}: {path} can't be sent: {reason}")
        target = self._target(key, path)
        self._add(file, target)
        return target

    def _target(self, key: str, path: Path) -> PurePosixPath:
        if ".." in path.parts or path.is_absolute():
            raise ValueError(f"{key}: {path} is outside of {self._folder}; submit from a folder that holds it")
        return PurePosixPath(path)

    def _add(self, source: Path, target: PurePosixPath) -> None:
        if source.suffix in _TEXT_SUFFIXES:
            _check_is_free_of_secrets(source)
        place = PurePosixPath(JOB) / target
        self.items[place] = Item(source=source, target=place, num_bytes=source.stat().st_size)


def _check_storage(run: Run) -> None:
    """What every node must see can't be in the job's folder, which is deleted with the job."""
    if not Path(run.output_dir).is_absolute():
        raise ValueError(
            f"output_dir={run.output_dir} is relative, and a job's own folder is deleted with it; set it to a folder "
            "on storage that every node sees, such as output_dir=/mnt/shared/runs"
        )
    for key, path in _models(run):
        if not Path(path).is_absolute() and Path(path).exists():
            raise ValueError(
                f"{key}={path} is a folder here, and models are not sent; put it on storage that every node sees, and "
                "name it by its absolute path there"
            )


def _check_recipe(recipe: Path, overrides: Sequence[str]) -> None:
    """Placeholders of the environment are filled on the cluster; values that are written out would be seen there."""
    document = apply_overrides(read_recipe(recipe), overrides)
    for path in document.origins:
        value: Any = document.data
        for part in path:
            value = value[part]
        if not isinstance(value, dict | list) and redact(value, str(path[-1])) != value:
            key = ".".join(map(str, path))
            raise ValueError(
                f"{key} ({document.origin(path)}) holds a secret, which would be sent; set it to ${{env:NAME}}, and "
                "the variable on the cluster"
            )


def _models(run: Run) -> Iterator[tuple[str, str]]:
    if run.model.path is not None:
        yield "model.path", run.model.path
    if isinstance(run, RlRun):
        if run.critic.path is not None:
            yield "critic.path", run.critic.path
        yield from ((key, spec.model_path) for key, spec in _scorers(run) if spec.model_path is not None)


def _scorers(run: RlRun) -> Iterator[tuple[str, RewardSpec]]:
    """All that score, by the key that says who."""
    gold = () if run.guard is None else run.guard.gold
    for section, specs in (("rewards", run.rewards), ("guard.gold", gold)):
        for number, spec in enumerate(specs):
            yield f"{section}.{number}.use", spec


def _code_files(run: Run) -> Iterator[tuple[str, str]]:
    """Relative ones; an absolute path is the cluster's."""
    if not isinstance(run, RlRun):
        return
    uses = [(key, spec.use) for key, spec in _scorers(run) if spec.model_path is None]
    for key, value in [*uses, ("algorithm.name", run.algorithm.name), ("algorithm.advantage", run.algorithm.advantage),
                       ("algorithm.loss", run.algorithm.loss)]:  # fmt: skip
        if value is not None and is_path(value) and _travels(file := value.rpartition(":")[0]):
            yield key, file


def _data_files(run: Run) -> Iterator[tuple[str, str]]:
    sources: list[tuple[str, DataConfig]] = [("data", run.data)]
    if isinstance(run, RlRun | SftRun) and run.mix is not None:
        sources.append(("mix.data", run.mix.data))
    for section, data in sources:
        for name in ("train", "eval", "chat_template"):
            value = getattr(data, name)
            if value is not None and not value.startswith("hub:") and _travels(value):
                yield f"{section}.{name}", value


def _travels(path: str) -> bool:
    return not Path(path).expanduser().is_absolute()


def _package(name: str) -> Iterator[Item]:
    for file in _files_under(ROOT / name):
        if not _unfit(file):
            yield Item(source=file, target=PurePosixPath(file.relative_to(ROOT)), num_bytes=file.stat().st_size)


def _modules_beside(file: Path) -> Iterator[Path]:
    """The modules of a file's folder, and its packages, but for ours."""
    for entry in sorted(file.parent.iterdir()):
        if entry.suffix == ".py" and entry.is_file():
            yield entry
        elif (entry / "__init__.py").is_file() and not (entry.parent == ROOT and entry.name in PACKAGES):
            yield from _files_under(entry)


def _files_under(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            if not entry.name.startswith(".") and entry.name not in _UNWANTED_FOLDERS and not entry.is_symlink():
                yield from _files_under(entry)
        elif entry.suffix != ".pyc":
            yield entry


def _unfit(file: Path) -> str:
    """Why a file is not sent; empty for one that may be."""
    name = file.name.lower()
    if name.startswith(".") or file.suffix.lower() in _SECRET_SUFFIXES or name.startswith(_SECRET_NAMES):
        return "hidden, or by its name a secret"
    if not file.is_file():
        return "no file"
    if file.is_symlink() and not file.resolve().is_relative_to(Path.cwd().resolve()):
        return "a link that leads elsewhere"
    if file.stat().st_size > LARGEST_FILE_BYTES:
        return f"{sized(file.stat().st_size)}, at most {sized(LARGEST_FILE_BYTES)} are sent; put it on shared storage"
    return ""


def _check_is_free_of_secrets(file: Path) -> None:
    text = file.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if redact(line) != line:
            raise ValueError(
                f"{file}:{number} holds a secret of your environment, which would be sent with it; read it from the "
                "environment there, and set it on the cluster"
            )


def sized(num_bytes: int) -> str:
    """`1.5 MiB`."""
    unit = 1 << 20 if num_bytes >= 1 << 20 else 1 << 10
    return f"{num_bytes / unit:.1f} {'MiB' if unit > 1 << 10 else 'KiB'}"
