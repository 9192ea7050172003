"""Environment variables of a rollout worker's process; most are read when torch or vLLM is imported."""

import math

from actors import telemetry
from actors.messages import RolloutSpec
from configs.schema.rollout import RolloutConfig


def environment(spec: RolloutSpec) -> dict[str, str]:
    """For a worker's engine, and for the processes that it starts."""
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in the actor's process
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # its sampler can't be exchanged for the one of actors/sampler.py
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "0",  # whatever the user's own is: nothing here needs pickles
        **telemetry.OFF,
        "PYTHONDONTWRITEBYTECODE": "",  # else every worker compiles torch and vLLM from source again
        "OMP_NUM_THREADS": str(spec.threads),
        **_of_processes(spec.config),
    }
    if spec.use_gpu:
        return variables
    return variables | {
        "CUDA_VISIBLE_DEVICES": "",
        "TORCHDYNAMO_DISABLE": "1",  # the sampler's compilation costs seconds and gains nothing
        "VLLM_CPU_KVCACHE_SPACE": str(spec.config.kv_cache_gib),
        "GOMP_SPINCOUNT": "0",  # threads that spin while they wait starve the other workers of the host
        "OMP_WAIT_POLICY": "passive",
        # A load makes and drops all packed weights. From one arena that keeps what is freed, their pages are there
        # already; else the system gives and zeroes each one anew, which takes longer than to fill it.
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }


def _of_processes(config: RolloutConfig) -> dict[str, str]:
    """What an engine on several devices needs beyond that: it has a process for each."""
    if config.tensor_parallel_size == 1:
        return {}
    return {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of the actor's process would have its threads' locks
        "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": "1",  # to leave by themselves, which one that hangs does not
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(math.ceil(2 * config.progress_timeout_seconds)),  # the fleet is first
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else vLLM wants a NUMA node for each process
    }
