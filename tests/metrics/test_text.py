"""What a model wrote can neither hide, nor move a terminal, nor fill a page."""

import unicodedata

import pytest

from metrics.text import one_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 中 ½\nline", "plain é 中 ½\nline"),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x9b31m", "⟨U+009B⟩31m"),
        ("bell\x07\x00\x7f", "bell␇␀␡"),
        ("over\rwritten", "over␍written"),
        ("a\tb", "a    b"),
        ("\u202egold\u202c", "⟨U+202E⟩gold⟨U+202C⟩"),
        ("4\u200b2\ufeff", "4⟨U+200B⟩2⟨U+FEFF⟩"),
        ("x\ufe0f\U000e0101", "x⟨U+FE0F⟩⟨U+E0101⟩"),
        ("\u3164\u2800", "⟨U+3164⟩⟨U+2800⟩"),
        ("\u2028\ue000\ud800", "⟨U+2028⟩⟨U+E000⟩⟨U+D800⟩"),
        ("tag \U000e0041", "tag ⟨U+E0041⟩"),
    ],
)
def test_what_hides_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_no_character_of_unicode_comes_through_that_could_hide() -> None:
    # The first plane, and that of tags and selectors; what lies between is assigned letters, signs or nothing.
    everything = "".join(map(chr, (*range(0x10000), *range(0xE0000, 0xE0200))))
    shown = visible(everything, len(everything))
    assert {unicodedata.category(c) for c in shown if c != "\n"}.isdisjoint({"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"})


def test_long_texts_are_cut_and_say_so() -> None:
    assert visible("x" * 5000, 10) == "xxxxxxxxxx … 4,990 more characters"
    assert visible("x" * 10, 10) == "x" * 10


def test_one_line_has_no_line_break() -> None:
    assert one_line("a\nb\r\nc") == "a ⏎ b␍ ⏎ c"
