"""The error of a recipe: every problem found in it, one line each."""

from collections.abc import Iterable


class ConfigError(ValueError):
    """What is wrong with a recipe. `problems` holds one line for each key concerned."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))
