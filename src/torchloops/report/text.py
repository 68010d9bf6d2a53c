"""Any text as something that can be drawn: with a font that has it, or a stand-in where no font has."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

from torchloops.files import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["as_label", "draw_literally"]

_NEVER_DRAWN = ("Cc", "Cs", "Co", "Cn")
"""Unicode's categories of control characters, halves of pairs, private and unassigned ones."""


def as_label(name: object, longest: int = 30) -> str:
    """A name as one visible line for ticks, legends and titles.

    Args:
        name: a class, a strategy, a metric: any text, as long as it likes.
        longest: characters; of a longer name the middle is left out.
    """
    text = "".join(_drawable(character) for character in str(name))
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[longest // 2 + 1 - longest :]}"
    if not text.strip():
        return f'"{text}"'
    return f" {text}" if text.startswith("_") else text  # matplotlib leaves names with "_" out of legends


def draw_literally(figure: Figure) -> None:
    """Make every text of a figure be drawn as it is: no formula, fonts that have it, stand-ins where none has."""
    from matplotlib.text import Text

    for drawn in figure.findobj(Text):
        drawn.set(parse_math=False, usetex=False)
        if (text := drawn.get_text()).isascii() and text.isprintable():
            continue
        text = "".join(character if character == "\n" else _drawable(character) for character in text)
        families = [family for family in map(_family_of, text) if family]
        drawn.set_text(text)
        drawn.set_fontfamily(list(dict.fromkeys([*drawn.get_fontfamily(), *families])))


def _drawable(character: str) -> str:
    if unicodedata.category(character) not in _NEVER_DRAWN and _family_of(character) is not None:
        return character
    escaped = readable(character)
    return escaped if escaped != character else character.encode("unicode_escape").decode("ascii")


@cache
def _family_of(character: str) -> str | None:
    """The installed family that has a character, "" for the one drawn with by default, None if there is none."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    if _has(findfont(FontProperties()), character):
        return ""
    fonts = sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.weight != 400, font.name))
    usable = (font for font in fonts if not font.name.startswith("Last Resort"))
    return next((font.name for font in usable if _has(font.fname, character)), None)


def _has(file: str, character: str) -> bool:
    from matplotlib.font_manager import get_font

    try:
        return get_font(file).get_char_index(ord(character)) != 0
    except (OSError, RuntimeError):  # a font that is there no more, or broken
        return False
