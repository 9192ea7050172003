"""A replica of a reward model: one process, or several that hold it together and end together."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.names import actor_name
from actors.placement import Room
from actors.scorer import ScorerRank, ScorerSpec, environment
from configs.schema.rewards import RewardModelConfig
from metrics.waits import waited
from rewards.contract import RewardError, RewardInput, Score

_SECONDS_FOR_OTHER_RANKS = 2.0  # after a first failure: the others' tell whether a rank died


class ReplicaLost(Exception):
    """A replica that can't serve any more; the message says why."""


class ScorerReplica:
    """All ranks of one replica, as the fleet sees them."""

    def __init__(self, spec: ScorerSpec, rank_type: type[ScorerRank], room: Room, *, use_gpu: bool) -> None:
        """`room`: with a bundle for each rank."""
        taken = resources(spec.config, use_gpu=use_gpu)
        options = {
            "num_cpus": taken["CPU"],
            "num_gpus": taken["GPU"],
            "runtime_env": {"env_vars": environment(spec.config, use_gpu)},
            "max_restarts": 0,  # with Ray's own restarts a rank would come back without its model
        }
        actor = ray.remote(rank_type)
        self._spec = spec
        self.ranks: list[Any] = [
            actor.options(**options, **room.options(rank), name=actor_name(f"{spec.name}-{rank}")).remote(
                spec, rank, use_gpu
            )
            for rank in range(spec.config.ranks_per_replica)
        ]

    async def start(self) -> None:
        """Load the model. RewardError when it can't be used, ReplicaLost when a process ended or took too long."""
        limit = self._spec.config.start_timeout_seconds
        try:
            await waited(self._meet(), what="its start", owner=self._spec.name, seconds=limit)
        except RayTaskError as error:  # another process would fare no better
            raise RewardError(f"rewards: {self._spec.name}: {error.cause}") from None
        except (RayError, TimeoutError) as error:
            raise ReplicaLost(f"did not load the model within {limit:g} s ({type(error).__name__})") from None

    async def score(self, items: Sequence[RewardInput]) -> list[Score]:
        """One score for each item, in order. ReplicaLost when it can't serve any more.

        RayTaskError when the samples are at fault; never from several ranks, which have lost step with each other
        when one of them raises.
        """
        try:
            limit = self._spec.config.timeout_seconds
            shares = await waited(self._call("score", items), what="scores", owner=self._spec.name, seconds=limit)
        except RayTaskError as error:
            if len(self.ranks) == 1:
                raise
            what = f"{type(error.cause).__name__} on one of {len(self.ranks)} ranks"
            raise ReplicaLost(f"{what} while it scored {len(items)} samples") from None
        except (RayError, TimeoutError) as error:
            raise ReplicaLost(f"{type(error).__name__} while it scored {len(items)} samples") from None
        scores = {row: score for share in shares for row, score in share.items()}
        return [scores[row] for row in range(len(items))]

    def end(self) -> None:
        """End every rank at once."""
        for rank in self.ranks:
            ray.kill(rank)

    async def _meet(self) -> None:
        addresses = await self._call("address")
        await self._call("start", addresses[0], len({host for host, _ in addresses}) == 1)

    async def _call(self, method: str, *arguments: Any) -> list[Any]:
        """The method's results, one a rank; the first failure else, and a rank's death before what it caused."""
        calls = [asyncio.wrap_future(getattr(rank, method).remote(*arguments).future()) for rank in self.ranks]
        try:
            answers = asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
            _, pending = await waited(answers, what=method, owner=self._spec.name, seconds=math.inf)
            if pending:
                rest = asyncio.wait(pending, timeout=_SECONDS_FOR_OTHER_RANKS)
                await waited(rest, what=f"the other ranks' {method}", owner=self._spec.name, seconds=math.inf)
            errors = [error for call in calls if call.done() and (error := call.exception())]
            if errors:
                raise next((error for error in errors if isinstance(error, RayActorError)), errors[0])
            return [call.result() for call in calls]
        finally:
            for call in calls:
                call.cancel()


def resources(config: RewardModelConfig, *, use_gpu: bool) -> dict[str, float]:
    """What one rank of a replica takes of its node, by Ray's names."""
    return {"CPU": config.threads_per_replica, "GPU": config.placement.gpu_share if use_gpu else 0}
