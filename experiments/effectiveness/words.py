"""Sentences of numbers: how values, names and lists are written."""

import math
import textwrap
from collections.abc import Sequence

from unlearn_jax.types import Interval

WIDE = 160
HUGE = 1e4


def wrapped(text: str) -> str:
    """A paragraph in lines of at most `WIDE` characters, which break at spaces only."""
    return textwrap.fill(text, WIDE, break_long_words=False, break_on_hyphens=False)


def bullet(text: str) -> str:
    """A paragraph as an item of a list."""
    return textwrap.fill(text, WIDE, initial_indent="* ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def number(value: float) -> str:
    """A share or a distance; what is beyond `HUGE` is told as such, and what is unknown as a question mark."""
    if not math.isfinite(value):
        return "?"
    if abs(value) >= HUGE:
        return f"{'below -' if value < 0 else 'over '}{HUGE:,.0f}"
    return f"{value:z.2f}" if abs(value) < 10 else f"{value:,.0f}"


def interval(value: Interval) -> str:
    """A value and its 95% interval, if it is known."""
    ends = f" ({number(value.low)} to {number(value.high)})" if math.isfinite(value.high - value.low) else ""
    return f"{number(value.value)}{ends}"


def percent(value: float) -> str:
    """A percentage with one digit."""
    return "?" if math.isnan(value) else f"{value:.1f}%"


def name(method: str) -> str:
    """A method's name, as code."""
    return f"`{method}`"


def listed(items: Sequence[str], most: int | None = None) -> str:
    """`a, b and c`; beyond `most` the rest is counted."""
    if most is not None and len(items) > most:
        items = [*items[:most], f"{len(items) - most} more"]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def named(methods: Sequence[str], most: int | None = None) -> str:
    """Methods' names in a list; beyond `most` the rest is counted."""
    return listed([name(method) for method in methods], most)


def share(part: int, whole: int, noun: str = "") -> str:
    """`3 of the 7 methods`, `none of the 7 methods`, `all 7 methods`, `both methods`."""
    words = f"{part} of the {whole}"
    if part == 0:
        words = f"none of the {whole}" if whole != 2 else "neither of the 2"
    elif part == whole:
        words = "both" if whole == 2 else f"all {whole}" if whole > 1 else "the only one of"
    return f"{words} {noun}".strip()


def agreeing(count: int, verb: str) -> str:
    """The verb for so many subjects; none counts as one: `leave` or `leaves`, `be` as `are` or `is`."""
    if verb == "be":
        return "are" if count > 1 else "is"
    if count > 1:
        return verb
    return f"{verb}es" if verb.endswith("o") else f"{verb}s"


def plural(count: int, noun: str) -> str:
    """`1 method`, `2 methods`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
