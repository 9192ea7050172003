"""The groups of ranks that share one update: what the driver asks of the policy's, the reference's, the critic's."""

from collections.abc import Mapping
from dataclasses import dataclass

from actors.lane_ranks import ColumnHandle, CriticRank, PolicyRank, ReferenceRank
from actors.ranks import RankGroup
from actors.trainer import TrainerGroup
from experience.columns import Place, places_of
from experience.packing import redeal
from experience.records import Batch, Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One number for each token of a batch, in the object store: each rank's column, and the sequences it is of."""

    columns: tuple[ColumnHandle, ...]
    places: tuple[frozenset[Place], ...]

    def read_by(self, part: Batch) -> list[ColumnHandle]:
        """The columns that hold a sequence of `part`; no others travel to its rank."""
        needed = places_of(part)
        return [column for column, places in zip(self.columns, self.places, strict=True) if places & needed]


class PolicyGroup(TrainerGroup):
    """The policy's ranks, where the reference or the critic has ranks of its own."""

    rank_class = PolicyRank

    async def score(self, batch: Batch) -> None:
        """The passes that precede the first update; the ranks hold on to what they find."""
        await self._call("score", self._parts(batch))

    async def credit(self, batch: Batch, lanes: Mapping[str, Lane]) -> Lane:
        """Make advantages of the scored batch and the lanes of others, by their names in Lanes; gives the returns."""
        parts = [part for part, _ in self._parts(batch)]
        given = [({name: lane.read_by(part) for name, lane in lanes.items()},) for part in parts]
        return _lane(await self._call("credit", given), parts)

    async def learn(self) -> Mapping[str, float]:
        """One optimiser step a mini-batch of the credited batch."""
        return (await self._call("learn", [()] * len(self)))[0]

    async def publish_parameters(self) -> Weights:
        """The current weights, as a reference takes them."""
        return (await self._call("publish_parameters", [()] * len(self)))[0]


class ScorerGroup(RankGroup):
    """Ranks that score each batch for the policy's."""

    async def score(self, batch: Batch) -> Lane:
        """Their scores of `batch`, which may be dealt to another number of ranks."""
        parts = self._parts(redeal(batch, self._spec.trainer.num_data_ranks))
        return _lane(await self._call("score", parts), [part for part, _ in parts])


class ReferenceGroup(ScorerGroup):
    """The reference's own ranks."""

    rank_class = ReferenceRank
    title = "reference"

    async def take(self, published: Weights) -> None:
        """Become the policy that published these."""
        await self._call("take", [(published,)] * len(self))


class CriticGroup(ScorerGroup):
    """The critic's own ranks."""

    rank_class = CriticRank
    title = "critic"

    async def learn(self, batch: Batch, returns: Lane) -> Mapping[str, float]:
        """One optimiser step a mini-batch of the scored batch, towards its returns."""
        parts = [part for part, _ in self._parts(redeal(batch, self._spec.trainer.num_data_ranks))]
        return (await self._call("learn", [(returns.read_by(part),) for part in parts]))[0]


def _lane(columns: list[ColumnHandle], parts: list[Batch]) -> Lane:
    return Lane(columns=tuple(columns), places=tuple(places_of(part) for part in parts))
