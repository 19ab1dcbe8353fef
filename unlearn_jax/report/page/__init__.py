"""Pages: one self-contained HTML file of a run, without a network: templates, style, code and libraries are all in it.

The data go in as one block of JSON, from which `page.js` draws tables (Tabulator) and charts (Vega-Lite). Whatever comes from a
run is escaped: text by Jinja2, the block by `embed`. The browser is told to load nothing from anywhere.
"""

import base64
import functools
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    import jinja2
    import markupsafe

NAME = "report.html"
LARGEST = 48  # pixels of a side of a picture
DIGITS = 5  # significant ones of a number in the block
TABLES, CHARTS = ("tabulator",), ("vega", "vega-lite")  # libraries


def render(
    template: str,
    data: Mapping[str, Any],
    libraries: tuple[str, ...] = (*TABLES, *CHARTS),
    scripts: tuple[str, ...] = (),
    **texts: Any,
) -> str:
    """Returns a page.

    Args:
        template: the name of a template in this folder, without its suffix.
        data: for the page's code, see `embed`.
        libraries: that the page needs.
        scripts: files of this folder that `page.js` calls, without their suffix.
        **texts: for the template: strings (escaped), lists and dicts of them.

    Raises:
        jinja2.UndefinedError: the template takes a text that is not given.
    """
    parts = {
        "css": _text("page/page.css"),
        "scripts": [_text(f"page/{name}.js") for name in (*scripts, "page")],
        "data": embed(data),
        "libraries": [(_text(f"vendor/{name}.LICENSE"), _text(f"vendor/{name}.min.js")) for name in libraries],
        "library_css": _text("vendor/tabulator_simple.min.css"),
    }
    page = _environment().get_template(f"{template}.html").render(**parts, **texts)
    return page.encode("utf-8", "replace").decode()  # a path may hold what is no text


def embed(value: Any) -> str:
    """Returns a value as JSON that may stand in a script element: no `<`, `>` or `&`, and nothing beyond ASCII.

    Numbers are rounded to 5 digits; those that are not finite become the strings "NaN", "Infinity" and "-Infinity".

    Raises:
        TypeError: JSON cannot hold it.
    """
    text = json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    """As JSON types."""
    if isinstance(value, float):
        if math.isfinite(value):
            short = float(f"{value:.{DIGITS}g}")
            return int(short) if short == int(short) and abs(short) < 1e9 else short
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    raise TypeError(f"JSON cannot hold a {type(value).__name__}")


def data_uri(png: bytes) -> str:
    """Returns the address that holds a PNG picture itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def picture(pixels: Float[np.ndarray, "height width channels"]) -> str:
    """Returns the address of a small picture, see `data_uri`.

    Args:
        pixels: in 0..1, one channel or three; larger pictures are reduced to `LARGEST` pixels a side.
    """
    from PIL import Image

    bytes_ = np.rint(255 * np.clip(np.nan_to_num(pixels), 0, 1)).astype(np.uint8)
    image = Image.fromarray(bytes_[..., 0] if bytes_.shape[-1] == 1 else bytes_)
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    image.save(file, format="png")
    return data_uri(file.getvalue())


def pixels(images: Float[np.ndarray, "examples ..."], scale: Sequence[float] = ()) -> Float[np.ndarray, "examples ..."] | None:
    """Returns standardised images as `picture` takes them, on one scale for all; None if they are no images.

    Args:
        images: `[examples, height, width, channels]`, of one channel or three, with sides of at least 4 pixels.
        scale: of each channel, see `Dataset.pixel_scale`.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or min(images.shape[1:3]) < 4:
        return None
    shown = images / np.array(scale or [1.0], np.float32)
    shown -= shown.min(axis=(0, 1, 2))
    return shown / max(shown.max(), 1e-9)


@functools.cache
def _environment() -> "jinja2.Environment":
    import jinja2

    loader = jinja2.FunctionLoader(lambda name: _text(f"page/{name}"))
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


@functools.cache
def _text(name: str) -> str:
    """A file of the package."""
    return resources.files("unlearn_jax.report").joinpath(name).read_text(encoding="utf-8")


class Body(NamedTuple):
    """A text as HTML, and the pictures in it."""

    html: "markupsafe.Markup"
    shown: set[str]


def from_markdown(text: str, pictures: Mapping[str, str]) -> Body:
    """Returns Markdown as HTML. HTML in the text is shown as text; links keep their words alone.

    Args:
        text: in Markdown, with tables.
        pictures: by the path that the text has, the address that holds the picture; others are left out.
    """
    import markupsafe
    from markdown_it import MarkdownIt

    reader, shown = MarkdownIt("commonmark", {"html": False}).enable("table"), set()

    def image(self: Any, tokens: Any, place: int, options: Any, env: Any) -> str:
        path, words = str(tokens[place].attrs.get("src", "")), markupsafe.escape(tokens[place].content)
        if path not in pictures:
            return ""
        shown.add(path)
        return f'<img src="{pictures[path]}" alt="{words}">'

    reader.add_render_rule("image", image)
    for rule in ("link_open", "link_close"):
        reader.add_render_rule(rule, lambda *_: "")
    return Body(markupsafe.Markup(reader.render(text)), shown)
