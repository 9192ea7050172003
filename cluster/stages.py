"""The driver of `wutong run`: which stages are to be done, each in a process of its own, and what became of them."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from algorithms.table import resolve
from cluster.exit_codes import FAILED, STOPPED_RESUMABLE
from cluster.folder import LOCK, has_owner, locked
from cluster.keeping import best_rule
from cluster.rl_checks import check_objective
from cluster.stage_prints import Print, print_of, told
from cluster.stage_process import StageProcess
from cluster.stage_records import Record, Records, finished, outcome_of
from configs.schema import BaseRun, ExportStage, RlRun
from configs.staged import StagedRun, StageSpec
from trainers.private_files import private_files

SECONDS_TO_LET_GO = 600.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table at the end."""

    stage: str
    state: str
    seconds: float
    number: str
    output: str


class Stages:
    """All stages of a recipe. `say`: tells what is done and why, one line at a time."""

    def __init__(self, run: StagedRun, process: StageProcess, say: Say) -> None:
        self._run, self._process, self._say = run, process, say
        self._specs = {spec.name: spec for spec in run.stages}

    def run(self, chosen: Sequence[str]) -> tuple[int, list[Row]]:
        """Do the chosen stages that are not finished; the exit code, and a row for each stage of the recipe.

        ValueError, before anything starts, for what is wrong in any stage, or where a stage that is not among the
        chosen ones would have to be done first.
        """
        made_of = {spec.name: _checked(spec) for spec in self._run.stages}
        with self._owned():
            records = Records(self._run.folder)
            self._check_others(chosen, made_of, records)
            code = 0
            with self._process.forwarding():
                for name in chosen:
                    is_stopped = self._process.stopped_by is not None
                    code = STOPPED_RESUMABLE if is_stopped else self._turn(self._specs[name], made_of[name], records)
                    if code:
                        break
            return code, [self._row(spec, made_of[spec.name], records) for spec in self._run.stages]

    def _row(self, spec: StageSpec, made_of: Print, records: Records) -> Row:
        record = records[spec.name]
        if record is None:
            return Row(stage=spec.name, state="waiting", seconds=0.0, number="", output="")
        is_stale = self._why(spec, self._with_reads(spec.name, made_of, records), record) is not None
        state = "out of date" if record.state == "finished" and is_stale else record.state
        output = str(next(iter(spec.outputs.values()), "")) if state == "finished" else ""
        return Row(stage=spec.name, state=state, seconds=record.seconds, number=record.number, output=output)

    @contextlib.contextmanager
    def _owned(self) -> Iterator[None]:
        try:
            self._run.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise ValueError(f"output_dir: can't make {self._run.folder} ({error.strerror})") from None
        with private_files(), locked(self._run.folder / LOCK):
            yield

    def _check_others(self, chosen: Sequence[str], made_of: Mapping[str, Print], records: Records) -> None:
        """ValueError unless each stage that the chosen ones read from is chosen too, or finished as it should be."""
        needed = {name for stage in chosen for name in self._specs[stage].reads if name not in chosen}
        while more := {name for stage in needed for name in self._specs[stage].reads} - needed:
            needed |= more
        for name in (spec for spec in self._specs if spec in needed):
            if why := self._why(self._specs[name], self._with_reads(name, made_of[name], records), records[name]):
                raise ValueError(f"stage {name} has to be done first: {why}; leave --only and --from out")

    def _with_reads(self, name: str, made_of: Print, records: Records) -> Print:
        found = {other: records[other] for other in self._specs[name].reads}
        return replace(made_of, reads={other: record.id if record else "" for other, record in found.items()})

    def _why(self, spec: StageSpec, made_of: Print, record: Record | None) -> str | None:
        """Why a stage has to be done, or gone on with; None where it is finished."""
        if record is None:
            return "it was never begun"
        if changes := made_of.changes(record.made_of):
            return told(changes)
        if record.state != "finished":
            return f"it is not finished ({record.state})"
        missing = [str(place) for place in spec.outputs.values() if not place.exists()]
        return f"{missing[0]} is gone" if missing else None

    def _turn(self, spec: StageSpec, made_of: Print, records: Records) -> int:
        """Do one stage unless it is finished; its exit code."""
        made_of = self._with_reads(spec.name, made_of, records)
        self._await_earlier(spec)
        record = records[spec.name]
        if record is not None and record.state != "finished" and (outcome := outcome_of(spec.folder, record.id)):
            record = finished(record, outcome, records.lost_seconds(spec))  # its driver was killed before it knew
            records.put(spec.name, record)
        why = self._why(spec, made_of, record)
        if why is None:
            self._say(f"{spec.name}: finished before, and nothing that it is made of has changed")
            return 0
        resume = record is not None and record.state != "finished" and not made_of.changes(record.made_of)
        if resume:
            assert record is not None
            lost = records.lost_seconds(spec) if record.state == "running" else 0.0
            record = replace(record, state="running", seconds=record.seconds + lost)
            self._say(f"{spec.name}: goes on in {spec.folder}")
        else:
            begins = record.begins + 1 if record else 1
            self._say(f"{spec.name}: begins in {spec.folder}" if record is None else f"{spec.name}: begins anew: {why}")
            self._make_way(spec, is_known=record is not None)
            record = Record(state="running", made_of=made_of, begins=begins)
        records.put(spec.name, record)
        return self._do(spec, record, records, resume=resume)

    def _do(self, spec: StageSpec, record: Record, records: Records, *, resume: bool) -> int:
        begun = time.monotonic()
        code = self._process.run(spec.config, id_=record.id, resume=resume)
        seconds = time.monotonic() - begun
        if code == 0 and (outcome := outcome_of(spec.folder, record.id)):
            records.put(spec.name, finished(record, outcome, seconds))
            return 0
        state = "stopped" if code == STOPPED_RESUMABLE or self._process.stopped_by else "failed"
        records.put(spec.name, replace(record, state=state, seconds=record.seconds + seconds))
        if code < 0 and state == "failed":
            self._say(f"{spec.name}: its process was killed by signal {-code}; the same command goes on")
        return STOPPED_RESUMABLE if state == "stopped" else code if code > 0 else FAILED

    def _make_way(self, spec: StageSpec, *, is_known: bool) -> None:
        """What an earlier doing of the stage left is moved aside; nothing is deleted."""
        places = [spec.folder]
        if isinstance(spec.config, ExportStage):
            places.append(spec.outputs["model"])
        for place in places:
            if not place.exists():
                continue
            if place != spec.folder and not is_known:
                raise ValueError(f"stage {spec.name}: to={place} is there already; move it away, or name another place")
            aside = next(new for new in _numbered(place) if not new.exists())
            place.rename(aside)
            self._say(f"{spec.name}: what was in {place} is in {aside.name} now")

    def _await_earlier(self, spec: StageSpec) -> None:
        """A driver that was killed may have left a process that is still ending its step."""
        deadline, is_told = time.monotonic() + SECONDS_TO_LET_GO, False
        while has_owner(spec.folder):
            if not is_told:
                self._say(f"{spec.name}: a process of an earlier start is still ending; waiting for it")
                is_told = True
            if time.monotonic() > deadline:
                raise ValueError(f"{spec.folder} belongs to a process that does not end; see its lock file")
            time.sleep(0.2)


def _checked(spec: StageSpec) -> Print:
    """What the stage is made of, but for other stages. ValueError for what can be found wrong before these are done."""
    try:
        if isinstance(spec.config, BaseRun):
            best_rule(spec.config)
        if isinstance(spec.config, RlRun):
            check_objective(spec.config, resolve(spec.config.algorithm))
        return print_of(spec, {})
    except ValueError as error:
        raise ValueError(f"stage {spec.name}: {error}") from None


def _numbered(place: Path) -> Iterator[Path]:
    number = 1
    while True:
        yield place.with_name(f"{place.name}.{number}")
        number += 1
