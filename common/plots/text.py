"""Text in plots: fonts that have its characters, its width, and text cut or wrapped to a width. Needs no display."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

from common.io.ranks import print_rank_zero

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import RendererAgg

DPI = 130  # of every plot
PLACEHOLDERS = "Last Resort"  # matplotlib's font of boxes for the characters that no other font has
CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "FULLWIDTH", "IDEOGRAPHIC", "BOPOMOFO")  # first words of Unicode names


def font_families(text: str) -> list[str]:
    """Font families for `text`: matplotlib's own, and those of installed fonts that have the characters it lacks.

    Where none has them, a line says so, once, and which package brings a font.
    """
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont

    families = list(rcParams["font.family"])
    if text.isascii():
        return families
    own = font_characters(findfont(FontProperties()))
    for character in sorted(set(text)):
        if ord(character) in own or is_invisible(character):
            continue
        if (family := family_with(character)) is None:
            report_missing(package_with(character))
        elif family not in families:
            families.append(family)
    return families


def is_invisible(character: str) -> bool:
    """Whether `character` has no shape of its own: a space, a control or format character, a variation selector."""
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf") or "\ufe00" <= character <= "\ufe0f"


@cache
def family_with(character: str) -> str | None:
    """Family of an installed font that has `character`, if possible upright and of normal weight; None if none has it."""
    from matplotlib.font_manager import fontManager

    add_installed_fonts()
    fonts = sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.weight not in (400, "normal")))
    named = (font for font in fonts if not font.name.startswith(PLACEHOLDERS))
    return next((font.name for font in named if ord(character) in font_characters(font.fname)), None)


@cache
def add_installed_fonts() -> None:
    """Adds the fonts that have been installed since matplotlib's own list of them was made, once."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    for path in sorted(set(findSystemFonts()) - {font.fname for font in fontManager.ttflist}):
        with suppress(OSError, RuntimeError, ValueError):  # a file that FreeType cannot read
            fontManager.addfont(path)


@cache
def font_characters(path: str) -> frozenset[int]:
    """Code points that the font file `path` has; none if it has bitmaps alone, as fonts of colored emoji do."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


def package_with(character: str) -> str:
    """Debian package with a font that has `character`."""
    if unicodedata.name(character, "").startswith(CJK):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(character) == "So" else "fonts-noto-core"


@cache
def report_missing(package: str) -> None:
    """Prints which package brings a font for characters that none of the installed ones has; each package once."""
    print_rank_zero(f"NOTE: plots show boxes for characters that no installed font has; install one, e.g. {package}")


@contextmanager
def missing_glyphs_ignored() -> Iterator[None]:
    """Context without matplotlib's warnings about characters that no font has: `font_families` has said so, once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


@cache
def measuring_renderer() -> RendererAgg:
    """Renderer that measures text."""
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, DPI)


def text_width(text: str, fontsize: float) -> float:
    """Width in inches of the one line `text`."""
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family=font_families(text), size=fontsize)
    with missing_glyphs_ignored():
        return measuring_renderer().get_text_width_height_descent(text, font, False)[0] / DPI


def fit_text(text: str, inches: float, fontsize: float) -> str:
    """`text` in one line, with an ellipsis in place of its end where it is wider than `inches`."""
    text = " ".join(text.split())
    if text_width(text, fontsize) <= inches:
        return text
    low, high = 0, len(text)  # characters that fit, and that do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if text_width(f"{text[:middle]}…", fontsize) <= inches else (low, middle)
    return f"{text[:low]}…"


def wrap_text(text: str, inches: float, fontsize: float) -> str:
    """`text` in lines of at most `inches`; a word that is wider is cut."""
    lines: list[str] = []
    for word in (fit_text(word, inches, fontsize) for word in text.split()):
        if lines and text_width(f"{lines[-1]} {word}", fontsize) <= inches:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)
