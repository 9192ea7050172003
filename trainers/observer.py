"""What happens around the steps of the loop besides training."""

from collections.abc import Mapping

from trainers.credit import Credit


class Observer:
    """What happens around the steps besides training. Every method may be left as it is."""

    async def before_training(self, step: int) -> None:
        """`step` steps are done (0 unless resumed), the weights are loaded, nothing is sampled yet."""

    async def after_update(self, step: int, credit: Credit, learned: Mapping[str, float]) -> None:
        """The learner has done step `step`, and told these metrics; its weights are not published yet."""

    async def after_step(self, step: int) -> None:
        """Step `step` is trained and its weights are loaded; the next step waits for this."""

    def record(self, step: int, credit: Credit, metrics: Mapping[str, float]) -> None:
        """Step `step` is over, and the next one is being sampled meanwhile."""
