"""What the generated pages are written in: Markdown for MyST, from values, docstrings and references."""

import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from unlearn_jax.methods import METHODS


class Docstring(NamedTuple):
    """A docstring in Google's style, in parts."""

    summary: str
    body: str
    sections: dict[str, str]  # heading -> text

    @classmethod
    def of(cls, thing: Any) -> "Docstring":
        """The docstring of a function."""
        text = inspect.cleandoc(thing.__doc__ or "")
        head, *rest = re.split(r"^(Args|Returns|Raises|Yields|Attributes):\n", text, flags=re.MULTILINE)
        summary, _, body = head.partition("\n\n")
        sections = {title: textwrap.dedent(part).strip() for title, part in zip(rest[::2], rest[1::2], strict=True)}
        return cls(" ".join(summary.split()), body.strip(), sections)


def entries_of(section: str) -> dict[str, str]:
    """Argument -> meaning, of a docstring's section."""
    found = re.findall(r"^(\w+): (.*(?:\n[ \t]+.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def as_number(text: str) -> str:
    """A number of a table, with the digits that a reader needs."""
    value = float(text)
    size = abs(value)
    return f"{value:z.2f}" if 0.0095 <= size < 10 or value == 0 else f"{value:.1f}" if 10 <= size < 1000 else f"{value:.2g}"


def as_value(value: Any) -> str:
    """A hyperparameter, as code."""
    return f"`{value:.3g}`" if isinstance(value, float) else f"`{json.dumps(value)}`"


def prose(text: str, name: str) -> str:
    """A docstring's text as Markdown: names of other methods as links, all else as it is written."""

    def code(part: str) -> str:
        inner = part.strip("`")
        return f"[`{inner}`]({inner}.md)" if inner in METHODS and inner != name else part

    return "".join(code(part) if part.startswith("`") else escaped(part) for part in re.split(r"(`[^`]+`)", text))


def escaped(text: str) -> str:
    """Text in which no character means anything to Markdown."""
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_<>\[\]\\])", r"\\\1", part) for part in re.split(r"(`[^`]+`)", text)
    )


def cell(text: str) -> str:
    """Text for one cell of a table."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def cells_of(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def cited(reference: str) -> str:
    """A reference whose arXiv number is a link."""
    return re.sub(r"(?:arXiv )?(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", reference)


def capital(text: str) -> str:
    """Text as a sentence."""
    return text[:1].upper() + text[1:] + "." * (not text.endswith("."))


def autodoc(names: Iterable[str]) -> str:
    """The documentation of functions, for Sphinx to fill in."""
    parts = []
    for name in names:
        module, _, last = name.rpartition(".")
        if last in ("effects",) and module.endswith("metrics"):
            parts.append(f".. automodule:: {name}\n   :no-index:")
        else:
            parts.append(f".. autofunction:: {name}\n   :no-index:")
    return "```{eval-rst}\n" + "\n\n".join(parts) + "\n```"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A table; the columns in `right` are aligned to the right."""
    aligned = ["---:" if column in set(right) else "---" for column in range(len(heads))]
    return "\n".join(f"| {' | '.join(map(cell, cells))} |" for cells in (heads, aligned, *lines))


def toctree(names: Iterable[str], *options: str) -> str:
    """The pages below a page."""
    return "\n".join((":::{toctree}", *(f":{option}:" for option in ("hidden", *options)), "", *names, ":::"))


def page(*parts: str) -> str:
    """Parts with an empty line between them."""
    return "\n\n".join(parts) + "\n"
