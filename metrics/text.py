"""Texts that a model wrote, made safe to look at: nothing hidden, nothing endless, no control of a terminal."""

import unicodedata

MAX_CHARACTERS = 4000
# Invisible, though Unicode calls them letters: Hangul fillers and the Braille blank.
_BLANK_LETTERS = frozenset("\u115f\u1160\u3164\uffa0\u2800")
# Cc, Cf: control and format (escapes, bidi, zero width); Co, Cs, Cn: private, half, unassigned; Zl, Zp: line breaks
# that editors don't count.
_HIDDEN = frozenset({"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"})


def visible(text: str, limit: int = MAX_CHARACTERS) -> str:
    """`text` with every control, bidi, zero-width and unassigned character written out, cut after `limit`.

    Newlines stay and tabs become spaces. Escape is shown as ␛, others as ⟨U+200B⟩; the cut says how much is missing.
    """
    shown = "".join(map(_shown, text[:limit]))
    missing = len(text) - limit
    return f"{shown} … {missing:,} more characters" if missing > 0 else shown


def one_line(text: str, limit: int = 200) -> str:
    """`visible` without line breaks."""
    return visible(text, limit).replace("\n", " ⏎ ")


def _shown(character: str) -> str:
    if character == "\n" or (character.isascii() and character.isprintable()):
        return character
    if character == "\t":
        return "    "
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(character) in _HIDDEN or character in _BLANK_LETTERS or _is_variation(code):
        return f"⟨U+{code:04X}⟩"
    return character


def _is_variation(code: int) -> bool:
    """Variation selectors are zero-width too, and whole messages can be hidden in a row of them."""
    return 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
