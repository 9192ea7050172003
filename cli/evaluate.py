"""`wutong evaluate`: how well a checkpoint answers held-out prompts."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from configs.schema import ClusterConfig, DataConfig, ModelConfig, RewardSpec, RolloutConfig, SamplingConfig

console = Console()


def evaluate(
    model: Annotated[str, typer.Argument(help="a folder in Hugging Face format, with its tokenizer")],
    data: Annotated[str, typer.Argument(help="Parquet or JSONL with prompts and gold answers, or hub:NAME")],
    samples: Annotated[int, typer.Option(help="sampled responses a prompt, for pass@k; 0: greedy alone")] = 0,
    num_prompts: Annotated[int, typer.Option(help="prompts to use")] = 512,
    temperature: Annotated[float, typer.Option(help="of the sampled responses")] = 1.0,
    max_response_tokens: Annotated[int, typer.Option(help="longest response")] = 512,
    max_prompt_tokens: Annotated[int, typer.Option(help="longest prompt")] = 512,
    reward: Annotated[str, typer.Option(help="what says that a response is right")] = "math",
    prompt_column: Annotated[str, typer.Option()] = "prompt",
    answer_column: Annotated[str, typer.Option()] = "answer",
    workers: Annotated[int, typer.Option(help="rollout workers")] = 1,
    seed: Annotated[int, typer.Option()] = 0,
    address: Annotated[str | None, typer.Option(help="a running Ray cluster; none: a local one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Greedy accuracy with its 95 % interval; with --samples also the sampled accuracy and pass@k."""
    from cluster.evaluate import EvaluationRequest, EvaluationResult
    from cluster.evaluate import evaluate as run_evaluation

    if not Path(model).is_dir():
        raise ValueError(f"MODEL={model}: not a folder")
    sampling = SamplingConfig(temperature=temperature, max_response_tokens=max_response_tokens)
    result: EvaluationResult = run_evaluation(
        EvaluationRequest(
            model=ModelConfig(path=model),
            data=DataConfig(
                train=data,
                max_prompt_tokens=max_prompt_tokens,
                prompt_column=prompt_column,
                answer_column=answer_column,
            ),
            rollout=RolloutConfig(num_workers=workers, sampling=sampling),
            rewards=(RewardSpec(use=reward),),
            num_prompts=num_prompts,
            num_samples=samples,
            seed=seed,
            cluster=ClusterConfig(address=address),
        )
    )
    numbers = summarise(result)
    console.print_json(json.dumps(numbers)) if as_json else console.print(_table(model, numbers))


def summarise(result: Any) -> dict[str, float]:
    """The result's numbers by name."""
    low, high = result.greedy.interval
    numbers = {
        "prompts": len(result.greedy.is_right),
        "greedy accuracy": result.greedy.accuracy,
        "greedy accuracy, low": low,
        "greedy accuracy, high": high,
    }
    if result.sampled is not None:
        numbers["sampled accuracy"] = result.sampled.accuracy
        num_samples = result.sampled.is_right.shape[1]
        powers = [2**power for power in range(num_samples.bit_length()) if 2**power <= num_samples]
        numbers |= {f"pass@{k}": result.sampled.pass_at(k) for k in sorted({*powers, num_samples})}
    return numbers


def _table(model: str, numbers: dict[str, float]) -> Table:
    table = Table("", model)
    for name, value in numbers.items():
        table.add_row(name, f"{value:.0f}" if name == "prompts" else f"{value:.1%}")
    return table
