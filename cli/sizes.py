"""Sizes as people write them."""

from pydantic import ByteSize, TypeAdapter, ValidationError

_SIZE = TypeAdapter(ByteSize)


def parse_bytes(text: str, option: str) -> int:
    """`80GiB` as a number of bytes; GB and GiB differ. ValueError names the option."""
    try:
        return int(_SIZE.validate_python(text.strip()))
    except ValidationError:
        raise ValueError(f"{option} {text}: want a number and a unit, such as 80GiB") from None
