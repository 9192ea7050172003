"""One rank as a Ray actor, whatever model it holds: its start, its part of a checkpoint, the blocks it reads."""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ray

from actors import stacks
from actors.garbage import all_stays
from actors.rendezvous import ReservedAddress, set_rank_environment
from experience.records import Batch, BlockHandle, Weights
from trainers.learner import LearnerSpec
from trainers.private_files import keep_files_private

if TYPE_CHECKING:
    from trainers.rank import RankModels
    from trainers.zero.buckets import Bucket


# On a CPU, beside an engine that samples meanwhile. A step of an engine is short and waits for the last of its threads:
# the engine first, and the rank in what it leaves, take a quarter less time together than as equals.
NICENESS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFacts:
    """How long each part of a rank's start took, in seconds."""

    imports: float
    process_group: float
    model_and_engine: float


class Rank:
    """One rank. Its process does nothing heavy before `start`, so that all ranks load at the same time."""

    file_prefix = ""  # of the files in a checkpoint that ranks of other groups would else write too

    def __init__(self, spec: LearnerSpec, rank: int, title: str) -> None:
        """`title`: what its group is called."""
        keep_files_private()  # a joined cluster's workers have a umask of their own
        self._spec = spec
        self._rank = rank
        self._name = f"{title}-{rank}"
        self._reserved = ReservedAddress()
        self._trainer: Any  # RankModels; each kind of rank says which
        stacks.listen(f"{type(self).__name__}-{rank}")

    def __repr__(self) -> str:
        """How Ray calls it in logs and in its dashboard."""
        return self._name

    def _assemble(self) -> "RankModels":
        """This rank's models; the process group is joined already."""
        raise NotImplementedError

    def address(self) -> tuple[str, int]:
        """Where the ranks could meet, were this the first of them."""
        return self._reserved.address

    def pid(self) -> int:
        """This rank's process."""
        return os.getpid()

    def start(self, master: tuple[str, int], is_single_host: bool) -> StartFacts:
        """Join the group whose rank 0 listens at `master`, and make the model and its engine."""
        if not self._spec.use_gpu:
            os.nice(NICENESS)
        is_local = is_single_host and not self._spec.use_gpu
        set_rank_environment(self._rank, self._spec.trainer.num_ranks, master, is_local=is_local)
        begun = time.monotonic()
        with all_stays():
            from trainers import assembly  # noqa: F401 - what is imported here is not counted to the model
            from trainers.zero.group import join_process_group

        imported = time.monotonic()
        join_process_group(self._spec.trainer, self._reserved.hand_over(self._rank))
        joined = time.monotonic()
        self._trainer = self._assemble()
        return StartFacts(
            imports=imported - begun, process_group=joined - imported, model_and_engine=time.monotonic() - joined
        )

    def offload(self) -> None:
        """See `PolicyTrainer.offload`; a rank of another model shares its device with nobody."""
        self._trainer.offload()

    def reload(self) -> None:
        """See `PolicyTrainer.reload`."""
        self._trainer.reload()

    def save(self, folder: str) -> str | None:
        """Write this rank's part of a checkpoint. Returns why there was no room for it, if there was none."""
        from trainers.rank_state import save_rank

        try:
            save_rank(self._trainer, Path(folder), self.file_prefix)
        except OSError as error:
            return str(error)
        return None

    def load(self, folder: str, universal: str | None = None) -> None:
        """Go on from this rank's part of a verified checkpoint; see `load_rank`."""
        from trainers.rank_state import load_rank

        load_rank(self._trainer, Path(folder), self.file_prefix, None if universal is None else Path(universal))

    def convert(self, folder: str, universal: str) -> str | None:
        """See `convert_rank`. Returns why there was no room for it, if there was none."""
        from trainers.rank_state import convert_rank

        try:
            convert_rank(self._trainer, Path(folder), Path(universal))
        except OSError as error:
            return str(error)
        return None

    def _published(self, version: int, buckets: "Iterable[Bucket]") -> Weights | None:
        """The buckets' weights where every node can read them, from rank 0; the others take part in gathering them."""
        from actors import weights

        if self._rank == 0:
            return weights.publish(version, buckets)
        for _ in buckets:
            pass
        return None

    def _memory_told(self, part: Batch) -> AbstractContextManager[None]:
        """See `out_of_memory_told`."""
        from trainers.memory import out_of_memory_told

        return out_of_memory_told(self._spec.model, self._spec.trainer, part)


def resolve(blocks: Mapping[int, BlockHandle]) -> dict[int, Any]:
    """Each block once, read in place from the object store."""
    return dict(zip(blocks, ray.get(list(blocks.values())), strict=True))
