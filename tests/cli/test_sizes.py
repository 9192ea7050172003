"""Sizes that people give on the command line."""

import pytest

from cli.sizes import parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("80GiB", 80 * 2**30), ("80 gib", 80 * 2**30), ("1.5 TB", 1_500_000_000_000), ("8G", 8_000_000_000), ("512", 512)],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_bytes(text, "--gpu-memory") == size


@pytest.mark.parametrize("text", ["eighty", "80 GiBs", "", "-1GiB"])
def test_anything_else_is_refused_by_the_option_s_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--gpu-memory .*: want a number and a unit, such as 80GiB$"):
        parse_bytes(text, "--gpu-memory")
