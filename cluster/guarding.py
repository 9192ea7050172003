"""The guard against over-optimisation in a run: when it looks, and what it does."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from configs.schema import GuardConfig
from configs.schema.guard import GuardAction
from trainers.best import NOTE
from trainers.checkpoint import folder_of, step_of
from trainers.guard import GOLD, GuardState, Judgement, Look, judge

logger = logging.getLogger(__name__)


class Looks(Protocol):
    """Who looks: trainers/looks.py."""

    async def look(self, step: int) -> Look:
        """What is measured of the policy as it is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What a guard can do to a run. `checkpoints`: where they are kept; `settled` waits for those under way.

    `load` makes a checkpoint's models those that are trained; `publish` gives them to the rollout workers.
    """

    checkpoints: Path
    keeps_best: bool
    end: Callable[[], None]
    tighten_kl: Callable[[float], str]
    settled: Callable[[], Awaitable[None]]
    load: Callable[[Path], Awaitable[object]]
    publish: Callable[[], Awaitable[None]]


class Guard:
    """Looks every so often; acts after `patience` over-optimised looks in a row. `state` is all that it remembers."""

    def __init__(self, config: GuardConfig, looks: Looks, hands: Hands, *, has_kl: bool, num_steps: int) -> None:
        self._config, self._looks, self._hands = config, looks, hands
        self._has_kl, self._num_steps = has_kl, num_steps
        self.state = GuardState()
        self._newest: Look | None = None  # None: the weights are no longer those that were looked at
        self._metrics: Mapping[str, float] = {}  # of the newest look, at step
        self._metrics_step = -1

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint has of `state`. A run that the guard had ended stays ended."""
        self.state = GuardState.from_json(state)
        if self.state.ended_with is not None:
            self._hands.end()

    @property
    def has_ended(self) -> bool:
        """Whether the guard has ended the run."""
        return self.state.ended_with is not None

    @property
    def may_go_back(self) -> bool:
        """Whether it may need any of the checkpoints that are looked at, the first one too."""
        return self._config.action in ("stop", "roll_back") and self._hands.keeps_best

    def is_due(self, step: int) -> bool:
        """Whether the step ends with a look."""
        return step % self._config.every_steps == 0 or step == self._num_steps

    def measured(self, step: int) -> tuple[Mapping[str, float], Mapping[str, list[float]]]:
        """What a checkpoint of this step is judged by: the metrics, and gold by prompt; nothing for another step's."""
        if self._newest is None or self._newest.step != step:
            return {}, {}
        return self._metrics, {"guard/gold": list(self._newest.columns[GOLD])}

    def looked(self, step: int) -> Mapping[str, float]:
        """The metrics of the look at this step; nothing where there was none."""
        return {**self._metrics, "guard/actions": float(self.state.num_actions)} if self._metrics_step == step else {}

    async def begin(self, step: int) -> None:
        """The look that later ones are measured by: of the initial policy, where the run begins with this guard."""
        if step and self.state.first is None:
            logger.warning("guard: first looks at step %d: drift and gains are since then", step)
        if step == 0 or self.state.first is None:
            self.state = GuardState()
            await self._look(step)

    async def after_step(self, step: int) -> None:
        """Look, if it is time, and act, if it must."""
        if not self.is_due(step):
            return
        judgement = await self._look(step)
        if judgement.is_collapse:
            logger.warning(
                "guard: step %d: gold and proxy are both below step %d: that is no over-optimisation, and not acted on",
                step,
                judgement.best_step,
            )
        if self.state.looks_below >= self._config.patience:
            logger.warning("guard: step %d: %s", step, _evidence(judgement, self.state.looks_below))
            await self._act(step)

    async def load_end(self, step: int) -> None:
        """At the end of step `step`: the weights that the run ends with, where the guard chose others than the last."""
        if self.state.ended_with not in (None, step):
            await self._hands.load(folder_of(self._hands.checkpoints, self.state.ended_with))

    async def _look(self, step: int) -> Judgement:
        look = await self._looks.look(step)
        judgement = judge(self.state, look)
        self.state, self._newest = judgement.state, look
        self._metrics, self._metrics_step = judgement.metrics, step
        return judgement

    async def _act(self, step: int) -> None:
        action: GuardAction = self._config.action
        may_go_back = self.state.num_actions < self._config.max_roll_backs
        self.state = self.state.acted()
        if action == "lower_kl":
            self._tighten_kl()
        elif action == "roll_back" and may_go_back and step < self._num_steps:
            await self._roll_back(step)
        elif action in ("stop", "roll_back"):
            await self._end(step)

    def _tighten_kl(self) -> None:
        logger.warning("guard: %s", self._hands.tighten_kl(self._config.kl_factor))

    async def _roll_back(self, step: int) -> None:
        best = await self._best()
        if best is None:
            await self._end(step)
            return
        await self._hands.load(best)
        await self._hands.publish()
        self._newest = None
        logger.warning("guard: back to %s; training goes on from its weights with the next prompts", best.name)
        if self._has_kl:
            self._tighten_kl()

    async def _end(self, step: int) -> None:
        """The best checkpoint's weights are what the run ends with, where one is kept."""
        best = await self._best()
        ended_with = step if best is None else step_of(best)
        self.state = replace(self.state, ended_with=ended_with)
        why = "no best checkpoint is kept: see checkpoint.keep_best" if best is None else "the best checkpoint"
        logger.warning("guard: the run ends here; step %d is exported (%s)", ended_with, why)
        self._hands.end()

    async def _best(self) -> Path | None:
        """The best checkpoint by best.json; None where none is kept."""
        await self._hands.settled()
        note = self._hands.checkpoints / NOTE
        if not note.is_file():
            return None
        best = self._hands.checkpoints / json.loads(note.read_text(encoding="utf-8"))["best"]
        return best if best.is_dir() else None


def _evidence(judgement: Judgement, looks_below: int) -> str:
    gold, proxy = judgement.gold, judgement.proxy
    return (
        f"over-optimised for {looks_below} looks: since step {judgement.best_step} gold changed by {gold.mean:+.3g} "
        f"({gold.low:+.3g} to {gold.high:+.3g}), the proxy by {proxy.mean:+.3g} ({proxy.low:+.3g} to {proxy.high:+.3g})"
    )
