"""Writes Grafana's dashboard of runs, dashboards/wutong.json, from the table of its panels.

python docker/grafana/make_dashboard.py
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "dashboards" / "wutong.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF = '{run=~"$run"'  # how every query of a run begins its labels
COLUMNS, WIDTH, HEIGHT = 3, 8, 8


@dataclass(frozen=True)
class Panel:
    """One chart. `queries`: what a line is called -> its expression."""

    title: str
    meaning: str
    queries: dict[str, str]
    unit: str = "short"
    is_stacked: bool = False


def newest(series: str, *labels: str, not_part: str = "") -> str:
    """The newest value of a gauge, a line for each run and label."""
    chosen = f',part!~"{not_part}"' if not_part else ""
    return f"max by ({', '.join(('run', 'ray_job', *labels))}) (ray_wutong_{series}{OF}{chosen}}})"


def rate(series: str, *labels: str) -> str:
    """What a counter grows by a second."""
    by = ", ".join(("run", "ray_job", *labels))
    return f"sum by ({by}) (rate(ray_wutong_{series}_total{OF}}}[$__rate_interval]))"


ROWS: dict[str, list[Panel]] = {
    "Is it getting on?": [
        Panel(
            "step",
            "Training steps done, and asked for.",
            {"{{run}}": newest("step"), "{{run}} in all": newest("steps")},
        ),
        Panel(
            "since the last step",
            "Grows far beyond a step's time when a run hangs.",
            {"{{run}}": newest("step_age_seconds")},
            unit="s",
        ),
        Panel(
            "phase",
            "Share of the last minute that the driver spent in each phase.",
            {"{{run}} {{phase}}": f"max by (run, ray_job, phase) (avg_over_time(ray_wutong_phase{OF}}}[1m])) > 0"},
            unit="percentunit",
            is_stacked=True,
        ),
        Panel(
            "time of a step, by part",
            "Of the newest step. Phases may overlap.",
            {"{{run}} {{part}}": newest("time_seconds", "part", not_part="step|update")},
            unit="s",
            is_stacked=True,
        ),
        Panel(
            "tokens a second",
            "Sampled by all engines, and trained.",
            {"{{run}} sampled": rate("engine_tokens"), "{{run}} trained": newest("throughput_tokens_per_second")},
        ),
        Panel(
            "model FLOPs utilisation",
            "Of training, per rank; needs a device that is known, or trainer.peak_tflops.",
            {"{{run}}": newest("throughput_mfu")},
            unit="percentunit",
        ),
    ],
    "Rollout": [
        Panel(
            "tokens a second, by worker",
            "One line far below the others: a slow node.",
            {"{{run}} {{worker}}": rate("engine_tokens", "worker")},
        ),
        Panel(
            "engines at work",
            "Part of the time that each engine spends in its steps.",
            {"{{run}} {{worker}}": rate("engine_busy_seconds", "worker")},
            unit="percentunit",
        ),
        Panel(
            "queues",
            "Groups that wait for a worker, are begun, or wait for training; jobs of the reward processes.",
            {"{{run}} {{place}}": newest("groups", "place"), "{{run}} verdict jobs": newest("verdict_jobs")},
        ),
        Panel(
            "workers",
            "Rollout workers by what they do.",
            {"{{run}} {{state}}": newest("workers", "state")},
            is_stacked=True,
        ),
        Panel(
            "replaced",
            "Rollout workers, and all ranks of the learner, since the start.",
            {"{{run}} {{of}}": newest("restarts", "of")},
        ),
        Panel(
            "staleness",
            "Policy versions between sampling and training.",
            {"{{run}} mean": newest("staleness_mean"), "{{run}} max": newest("staleness_max")},
        ),
        Panel(
            "vLLM: sequences",
            "In each engine's batch, and waiting for room in it.",
            {
                "{{run}} {{worker}} running": newest("engine_requests_running", "worker"),
                "{{run}} {{worker}} waiting": newest("engine_requests_waiting", "worker"),
            },
        ),
        Panel(
            "vLLM: KV cache in use",
            "Near 1 with sequences waiting: memory is what limits sampling.",
            {"{{run}} {{worker}}": newest("engine_kv_cache_usage", "worker")},
            unit="percentunit",
        ),
        Panel(
            "vLLM: prefix cache hits",
            "Prompt tokens that were found in the cache.",
            {
                "{{run}} {{worker}}": " / ".join(rate(f"engine_prefix_{of}", "worker") for of in ("hits", "queries")),
            },
            unit="percentunit",
        ),
    ],
    "What it learns": [
        Panel(
            "reward",
            "Mean over the samples of a step.",
            {"{{run}} all": newest("reward_mean"), "{{run}} {{part}}": newest("reward", "part")},
        ),
        Panel(
            "verdicts a second, by status",
            "timeout, memory, error and unsound are failures.",
            {"{{run}} {{status}}": rate("score", "status")},
            is_stacked=True,
        ),
        Panel(
            "held out",
            "Accuracy on held-out prompts, with its 95 % interval.",
            {
                "{{run}}": newest("eval_accuracy"),
                "{{run}} low": newest("eval_accuracy_low"),
                "{{run}} high": newest("eval_accuracy_high"),
            },
            unit="percentunit",
        ),
        Panel(
            "KL divergence",
            "From the reference, and from the policy before the update; nats.",
            {"{{run}} reference": newest("policy_kl_ref"), "{{run}} old": newest("policy_kl_old")},
        ),
        Panel(
            "mismatch of engine and trainer",
            "Of their log-probs, staleness included; nats.",
            {"{{run}} KL": newest("mismatch_kl"), "{{run}} mean difference": newest("mismatch_mean_abs")},
        ),
        Panel("entropy", "Of the next token; nats.", {"{{run}}": newest("policy_entropy")}),
        Panel(
            "length of responses",
            "Tokens.",
            {"{{run}} mean": newest("response_length_mean"), "{{run}} max": newest("response_length_max")},
        ),
        Panel(
            "cut, equal, clipped",
            "Responses cut by the limit; groups with equal rewards; tokens above the clip range.",
            {
                "{{run}} cut": newest("response_truncated_fraction"),
                "{{run}} equal": newest("group_equal_fraction"),
                "{{run}} clipped": newest("policy_clip_fraction_high"),
            },
            unit="percentunit",
        ),
        Panel("gradient norm", "Before clipping.", {"{{run}}": newest("optimizer_grad_norm")}),
    ],
    "The cluster, by Ray": [
        Panel("CPU", "Of each node.", {"{{instance}}": "ray_node_cpu_utilization"}, unit="percent"),
        Panel("memory", "In use on each node.", {"{{instance}}": "ray_node_mem_used"}, unit="bytes"),
        Panel(
            "object store",
            "Tokens and weights on their way.",
            {"{{instance}}": "sum by (instance) (ray_object_store_memory)"},
            unit="bytes",
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """What Grafana loads."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {"type": "row", "title": title, "id": len(panels) + 1, "gridPos": _place(0, y, 24, 1), "panels": []}
        )
        for number, panel in enumerate(row):
            place = _place(number % COLUMNS * WIDTH, y + 1 + number // COLUMNS * HEIGHT, WIDTH, HEIGHT)
            panels.append({"id": len(panels) + 1, "gridPos": place, **_chart(panel)})
        y += 1 + -(-len(row) // COLUMNS) * HEIGHT
    return {
        "uid": "wutong",
        "title": "wutong",
        "tags": ["wutong", "ray"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _run()]},
        "panels": panels,
    }


def _chart(panel: Panel) -> dict[str, Any]:
    stacking = {"mode": "normal"} if panel.is_stacked else {"mode": "none"}
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": DATASOURCE,
        "targets": [
            {"refId": chr(ord("A") + number), "expr": query, "legendFormat": legend, "datasource": DATASOURCE}
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "custom": {"stacking": stacking, "fillOpacity": 30 if panel.is_stacked else 0, "showPoints": "never"},
            },
            "overrides": [],
        },
        "options": {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list", "placement": "bottom"}},
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _run() -> dict[str, Any]:
    query = "label_values(ray_wutong_steps, run)"
    return {
        "name": "run",
        "label": "run",
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "run"},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(dashboard(), indent=1) + "\n", encoding="utf-8")
