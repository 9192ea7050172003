"""`wutong reward`: try a reward on data before a run, list the built-in ones, serve one over HTTP."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from configs.schema.rewards import RewardPoolConfig, RewardSpec
from metrics.text import visible
from rewards.builtin import BUILTINS
from rewards.contract import RewardError, RewardInput, Scorer
from rewards.pool import RewardPool
from rewards.server import RewardServer
from rewards.trial import Trial, try_out

app = typer.Typer(no_args_is_help=True, help="Try, list and serve rewards.")

Target = Annotated[str, typer.Argument(help="a built-in reward, path/to/file.py:function, or model:PATH")]
Args = Annotated[str, typer.Option("--args", help="keyword arguments of the reward, as JSON")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    prompt: str
    response: str
    answer: str
    label: str | None


@app.command()
def check(
    target: Target,
    data: Annotated[Path, typer.Option(help="JSONL or Parquet file with responses to judge")],
    prompt_column: Annotated[str, typer.Option(help="column with the prompt")] = "prompt",
    response_column: Annotated[str, typer.Option(help="column with the response")] = "response",
    answer_column: Annotated[str, typer.Option(help="column with the gold answer")] = "answer",
    label_column: Annotated[str | None, typer.Option(help="column with the right verdict: true/false, 0 to 1")] = None,
    args: Args = "{}",
    against: Annotated[str | None, typer.Option(help="another reward to compare with")] = None,
    limit: Annotated[int, typer.Option(help="judge at most so many rows; 0: all")] = 0,
    timeout_seconds: Annotated[float, typer.Option(help="limit of one call, for a reward without its own")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON")] = False,
    rows: Annotated[
        Path | None, typer.Option(help="write id, value, status, detail and seconds of each row here")
    ] = None,
) -> None:
    """Run a reward on every row of a file, and on built-in hostile answers; no cluster, no model."""
    columns = _Columns(prompt=prompt_column, response=response_column, answer=answer_column, label=label_column)
    records = [record for _, record in zip(range(limit or sys.maxsize), _read(data), strict=False)]
    items, labels = _items(records, columns, data)
    limits, folder = RewardPoolConfig(timeout_seconds=timeout_seconds), Path.cwd()
    spec, reference = RewardSpec(use=target, args=_parsed(args)), RewardSpec(use=against or target)
    trial = try_out(spec, items, limits, folder, _models(spec))
    other = try_out(reference, items, limits, folder, _models(reference)).values if against else None
    summary = {"reward": target, "data": str(data), **trial.summary(labels, other)}
    if rows is not None:
        _write_rows(trial, rows)
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        _show(summary, Console())


@app.command("list")
def list_rewards() -> None:
    """The built-in rewards, with what they answer."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("reward", style="cyan", no_wrap=True)
    table.add_column("what it answers")
    for name, row in BUILTINS.items():
        table.add_row(name, row.summary)
    Console().print(table)


@app.command()
def serve(
    target: Target,
    port: Annotated[int, typer.Option(help="TCP port; 0: any free one")] = 8765,
    host: Annotated[
        str, typer.Option(help="address to listen on; the loopback unless other machines must reach it")
    ] = ("127.0.0.1"),
    num_processes: Annotated[int, typer.Option(help="processes that judge")] = 1,
    args: Args = "{}",
) -> None:
    """Serve a reward over HTTP to callers who bear the token in WUTONG_REWARD_TOKEN; stop with Ctrl-C."""
    token = os.environ.get("WUTONG_REWARD_TOKEN", "")
    if not token:
        raise RewardError("WUTONG_REWARD_TOKEN is empty; set it to a secret that the runs know too")
    spec = RewardSpec(use=target, args=_parsed(args))
    pool = RewardPool([spec], RewardPoolConfig(num_processes=num_processes), scorers=_models(spec))
    pool.start()
    try:
        with RewardServer(pool.score_blocking, token, host, port) as server:
            print(f"serving {target} at {server.url}", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        pool.close()


def _models(spec: RewardSpec) -> dict[str, Scorer]:
    """The reward model that `spec` names, loaded into this process; none for other rewards."""
    if spec.model_path is None:
        return {}
    from trainers.model_files import check_reward_model

    check_reward_model(spec.model_path)
    from trainers.scoring_model import ScoringModel  # torch takes seconds, which no rule should wait for

    return {spec.label: ScoringModel(spec.model_path)}


def _parsed(args: str) -> dict[str, object]:
    try:
        parsed = json.loads(args)
    except ValueError as error:
        raise RewardError(f"--args {args!r}: not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise RewardError(f'--args {args!r}: expected an object, such as \'{{"marker": "hashes"}}\'')
    return parsed


def _read(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        raise RewardError(f"--data {path}: there is no such file (from {Path.cwd()})")
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _record(line, f"{path}:{number}")


def _record(line: str, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise RewardError(f"{where}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise RewardError(f"{where}: expected an object of columns, found {type(record).__name__}")
    return record


def _items(
    records: Sequence[Mapping[str, Any]], columns: _Columns, data: Path
) -> tuple[list[RewardInput], list[float | None] | None]:
    if not records:
        raise RewardError(f"--data {data}: no rows")
    wanted = [columns.response] + ([columns.label] if columns.label else [])
    if missing := [name for name in wanted if name not in records[0]]:
        have = ", ".join(records[0])
        raise RewardError(f"--data {data}: no column {missing[0]!r}; it has {have} (--response-column, --label-column)")
    items = [_item(record, columns, number) for number, record in enumerate(records)]
    return items, [_label(record[columns.label]) for record in records] if columns.label else None


def _item(record: Mapping[str, Any], columns: _Columns, number: int) -> RewardInput:
    prompt, answer = record.get(columns.prompt, ""), record.get(columns.answer)
    response = str(record[columns.response])
    return RewardInput(
        prompt=prompt if isinstance(prompt, str) else "",
        messages=prompt if isinstance(prompt, list) else (),
        response=response,
        answer=None if answer is None else str(answer),
        columns=record,
        num_response_tokens=len(response.split()),
        id=str(record.get("id", number)),
    )


def _label(value: Any) -> float | None:
    if isinstance(value, str):
        return {"true": 1.0, "false": 0.0}.get(value.strip().lower())
    return None if value is None else float(value)


def _write_rows(trial: Trial, path: Path) -> None:
    with path.open("w", encoding="utf-8") as lines:
        for verdict in trial.verdicts:
            score = verdict.score
            row = {"id": verdict.id, "value": score.value, "status": score.status.value, "detail": score.detail}
            lines.write(json.dumps({**row, "seconds": round(verdict.seconds, 6)}) + "\n")


def _show(summary: Mapping[str, Any], console: Console) -> None:
    """A table for people; the same figures as --json."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _lines(summary):
        table.add_row(name, visible(text))
    console.print(table, markup=False)


def _lines(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    hostile = summary["hostile"]
    yield "reward", f"{summary['reward']} on {summary['rows']} rows of {summary['data']}"
    yield "statuses", ", ".join(f"{name} {count}" for name, count in summary["statuses"].items())
    yield "values", ", ".join(f"{value}: {count}" for value, count in summary["values"].items())
    yield "time", f"p50 {1e3 * summary['seconds_p50']:.2f} ms, p99 {1e3 * summary['seconds_p99']:.2f} ms a row"
    yield "deterministic", "yes" if summary["is_deterministic"] else f"no: {', '.join(summary['unstable'])}"
    for failure in summary["failures"]:
        yield "failure", f"{failure['id']}: {failure['status']}: {failure['detail']}"
    yield (
        "hostile answers",
        (
            f"{hostile['answers']}: {len(hostile['taken_for_right'])} taken for right, {hostile['failures']} failures, "
            f"{len(hostile['slower_than_2_seconds'])} slower than 2 s"
        ),
    )
    if hostile["taken_for_right"]:
        yield "taken for right", ", ".join(hostile["taken_for_right"][:10])
    for name, other in (("labels", summary["labels"]), ("other reward", summary["other"])):
        if other is not None:
            yield (
                name,
                (
                    f"{other['share']:.2%} of {other['compared']} agree (kappa {other['kappa']:.3f}); "
                    f"both right {other['both_right']}, only this {other['only_this']}, "
                    f"only the other {other['only_reference']}, both wrong {other['both_wrong']}"
                ),
            )
            if other["disagreements"]:
                yield "disagreements", ", ".join(other["disagreements"])
