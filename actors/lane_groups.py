"""The groups of ranks that share one update: what the driver asks of the policy's, the reference's, the critic's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.lane_ranks import ColumnHandle, CriticRank, PolicyRank, ReferenceRank
from actors.ranks import RankGroup
from actors.trainer import TrainerGroup
from experience.columns import Place, places_of
from experience.packing import redeal
from experience.records import Batch, Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One number for each token of some sequences, in the object store: columns, and the sequences that each is of."""

    columns: tuple[ColumnHandle, ...]
    places: tuple[frozenset[Place], ...]

    def __add__(self, other: "Lane") -> "Lane":
        return Lane(columns=self.columns + other.columns, places=self.places + other.places)

    def covers(self, batch: Batch) -> bool:
        """Whether every sequence of `batch` is in one of the columns."""
        return places_of(batch) <= frozenset().union(*self.places)

    def read_by(self, part: Batch) -> list[ColumnHandle]:
        """The columns that hold a sequence of `part`; no others travel to its rank."""
        needed = places_of(part)
        return [column for column, places in zip(self.columns, self.places, strict=True) if places & needed]


LanesByName = Mapping[str, Lane]  # by their names in trainers.lanes.Lanes


class PolicyGroup(TrainerGroup):
    """The policy's ranks, which may hold the reference and the critic too."""

    rank_class = PolicyRank

    async def score(self, batch: Batch, *, is_old_needed: bool) -> LanesByName:
        """What the ranks' models say of `batch` as they are."""
        parts = self._parts(batch)
        found = await self._call("score", [(*part, is_old_needed) for part in parts])
        return _lanes(found, [part for part, _ in parts])

    async def credit(self, batch: Batch, lanes: LanesByName) -> Lane:
        """Make advantages of the batch and its scores; gives the returns."""
        parts = self._parts(batch)
        columns = await self._call("credit", [(*part, _read_by(lanes, part[0])) for part in parts])
        return _lane(columns, [part for part, _ in parts])

    async def learn(self) -> Mapping[str, float]:
        """One optimiser step a mini-batch of the credited batch."""
        return (await self._call("learn", [()] * len(self)))[0]

    async def learn_from(self, batch: Batch, lanes: LanesByName) -> Mapping[str, float]:
        """`credit` and `learn`, with one call to each rank."""
        parts = self._parts(batch)
        return (await self._call("learn_from", [(*part, _read_by(lanes, part[0])) for part in parts]))[0]

    async def divergences(self, batch: Batch) -> Mapping[Place, float]:
        """Of each sequence from the reference that these ranks hold."""
        return _merged(await self._call("divergences", self._parts(batch)))

    async def publish_parameters(self) -> Weights:
        """The current weights, as a reference takes them."""
        return (await self._call("publish_parameters", [()] * len(self)))[0]


class ScorerGroup(RankGroup):
    """Ranks that score batches for the policy's."""

    async def score(self, batch: Batch) -> LanesByName:
        """What they say of `batch`, which may be dealt to another number of ranks."""
        parts = self._parts(redeal(batch, self._spec.trainer.num_data_ranks))
        return _lanes(await self._call("score", parts), [part for part, _ in parts])


class ReferenceGroup(ScorerGroup):
    """The reference's own ranks."""

    rank_class = ReferenceRank
    title = "reference"

    async def divergences(self, batch: Batch) -> Mapping[Place, float]:
        """Of each sequence from this model."""
        parts = self._parts(redeal(batch, self._spec.trainer.num_data_ranks))
        return _merged(await self._call("divergences", parts))

    async def take(self, published: Weights) -> None:
        """Become the policy that published these."""
        await self._call("take", [(published,)] * len(self))


class CriticGroup(ScorerGroup):
    """The critic's own ranks."""

    rank_class = CriticRank
    title = "critic"

    async def learn(self, batch: Batch, values: Lane, returns: Lane) -> Mapping[str, float]:
        """One optimiser step a mini-batch towards the returns; `values`: what it said of the batch before."""
        parts = self._parts(redeal(batch, self._spec.trainer.num_data_ranks))
        arguments = [(*part, values.read_by(part[0]), returns.read_by(part[0])) for part in parts]
        return (await self._call("learn", arguments))[0]


def _merged(found: Sequence[Mapping[Place, float]]) -> dict[Place, float]:
    return {place: value for part in found for place, value in part.items()}


def _read_by(lanes: LanesByName, part: Batch) -> dict[str, list[ColumnHandle]]:
    return {name: lane.read_by(part) for name, lane in lanes.items()}


def _lanes(found: Sequence[Mapping[str, ColumnHandle]], parts: Sequence[Batch]) -> LanesByName:
    return {name: _lane([columns[name] for columns in found], parts) for name in found[0]}


def _lane(columns: Sequence[ColumnHandle], parts: Sequence[Batch]) -> Lane:
    return Lane(columns=tuple(columns), places=tuple(places_of(part) for part in parts))
