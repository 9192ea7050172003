"""A reward that even random weights earn now and then."""


def letters(item) -> float:
    """The share of letters in the response."""
    return sum(character.isalpha() for character in item.response) / max(1, len(item.response))
