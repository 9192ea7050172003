"""`wutong evaluate`: how well a checkpoint answers held-out prompts."""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.evaluation_tables import tables, warnings
from cli.trust import InsecureCluster
from configs.schema import (
    MAX_BEAM_WIDTH,
    ClusterConfig,
    DataConfig,
    ModelConfig,
    RewardSpec,
    RolloutConfig,
    SamplingConfig,
)

logger = logging.getLogger(__name__)

console = Console()


def evaluate(
    model: Annotated[str, typer.Argument(help="a folder in Hugging Face format, with its tokenizer")],
    data: Annotated[list[str], typer.Argument(help="Parquet or JSONL with prompts and gold answers, or hub:NAME")],
    against: Annotated[str | None, typer.Option(help="another model, compared on the same prompts")] = None,
    samples: Annotated[int, typer.Option(min=0, help="sampled responses a prompt, for pass@k; 0: greedy alone")] = 0,
    beam_width: Annotated[
        int, typer.Option(min=0, max=MAX_BEAM_WIDTH, help="of a beam search, beside the greedy response; 0: none")
    ] = 0,
    num_prompts: Annotated[int, typer.Option(min=1, help="prompts to use of each data set")] = 512,
    temperature: Annotated[float, typer.Option(help="of the sampled responses")] = 1.0,
    max_response_tokens: Annotated[int, typer.Option(help="longest response")] = 512,
    max_prompt_tokens: Annotated[int, typer.Option(help="longest prompt")] = 512,
    reward: Annotated[str, typer.Option(help="what says that a response is right")] = "math",
    marker: Annotated[
        str | None, typer.Option(help="where responses mark their answer; none: as the reward has it")
    ] = None,
    reward_model: Annotated[str | None, typer.Option(help="a reward model, for best-of-n")] = None,
    prompt_column: Annotated[str, typer.Option()] = "prompt",
    answer_column: Annotated[str, typer.Option()] = "answer",
    workers: Annotated[int, typer.Option(help="rollout workers")] = 1,
    tensor_parallel_size: Annotated[int, typer.Option(min=1, help="devices of each worker")] = 1,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path | None, typer.Option(help="a folder for results.json and answers.parquet")] = None,
    address: Annotated[str | None, typer.Option(help="a running Ray cluster; none: a local one")] = None,
    insecure_cluster: InsecureCluster = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Greedy accuracy on each data set; with --samples also pass@k, maj@k and best-of-n, each with its interval."""
    from cluster.evaluate import evaluate as run_evaluation
    from cluster.evaluation_inputs import EvaluationRequest
    from cluster.evaluation_results import RESULTS, results, write_results

    _check_models(model, against)
    if out is not None and (out / RESULTS).exists():
        raise ValueError(f"--out={out}: holds the results of another evaluation; name another folder")
    sampling = SamplingConfig(temperature=temperature, max_response_tokens=max_response_tokens)
    request = EvaluationRequest(
        models=tuple(ModelConfig(path=path) for path in (model, against) if path is not None),
        data=tuple(
            DataConfig(
                train=source,
                max_prompt_tokens=max_prompt_tokens,
                prompt_column=prompt_column,
                answer_column=answer_column,
            )
            for source in data
        ),
        rollout=RolloutConfig(num_workers=workers, tensor_parallel_size=tensor_parallel_size, sampling=sampling),
        rewards=(RewardSpec(use=reward),),
        marker=marker,
        reward_model=reward_model,
        num_prompts=num_prompts,
        num_samples=samples,
        beam_width=beam_width,
        seed=seed,
        cluster=ClusterConfig(address=address, insecure=insecure_cluster),
    )
    answers = run_evaluation(request)
    document = results(request, answers)
    if out is not None:
        write_results(out, document, answers)
    for warning in warnings(document):
        logger.warning("%s", warning)
    if as_json:
        console.print_json(json.dumps(document))
    else:
        console.print(*tables(document), sep="\n")


def _check_models(model: str, against: str | None) -> None:
    for name, path in (("MODEL", model), ("--against", against)):
        if path is not None and not Path(path).is_dir():
            raise ValueError(f"{name}={path}: not a folder")
    if against is not None and Path(model).resolve() == Path(against).resolve():
        raise ValueError(f"--against={against}: the model itself; name another one")
