"""The base of every config section: frozen, no unknown keys, a docstring under each field."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One block of a recipe. Unknown keys are errors; numbers are finite; values are never changed after loading."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
