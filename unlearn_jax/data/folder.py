"""A data set from a folder of images by class."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from unlearn_jax.data.dataset import Dataset
from unlearn_jax.errors import ArgumentError
from unlearn_jax.files import open_regular, require_room, unread

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
LAYOUT = "a folder with train/CLASS/ and test/CLASS/ is needed, and each CLASS full of images"
GREY, COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")  # of Pillow's modes
FLOAT = 4  # bytes of a value once it is standardised


class Header(NamedTuple):
    """What a file says about its image."""

    size: tuple[int, int]  # width and height in pixels
    grey: bool


def read_folder(path: Path) -> Dataset:
    """Reads a data set of one's own from a folder of images: `train/CLASS/*`, `test/CLASS/*`, and optionally `held_out/CLASS/*`.

    Labels are the places of the class names in their sorted order (as text: `10` comes before `2`), and every part has the same
    classes. Rows are sorted by class, then by file name; the row numbers of forget sets are those of `train` in this order. All
    images have one size; they are RGB if any of them has colours (a palette counts as such), and the grey ones are converted
    then, else grey. They are taken as stored, whatever orientation their EXIF data tell.

    Symbolic links are followed, also out of the folder, to classes and to images, so that a data set may be made of links; what
    counts is what they lead to, under the name of the link. Names that begin with a dot are left out, and so is everything in
    the folder besides the three parts.

    Args:
        path: of the folder.

    Raises:
        ArgumentError: a file is no image (of `FORMATS`), transparent, of more than 8 bits, animated, too large for Pillow, or of
            another size than the others; a class is empty, or is not in every part; Pillow is missing; or the images, as 32-bit
            numbers, would take more than half of the memory. It names the file.
    """
    try:
        import PIL.Image
    except ImportError as error:
        raise ArgumentError("dataset", path, f"images need Pillow ({error}): pip install pillow") from error
    parts = [part for part in ("train", "test", "held_out") if part != "held_out" or (path / part).is_dir()]
    files = {part: _files(path / part) for part in parts}
    classes = list(files["train"])
    for part in parts:
        for name in sorted(set(files[part]) ^ set(classes)):
            lacking = part if name in classes else "train"
            raise ArgumentError("dataset", path / lacking / name, "every part needs the same classes; this one is missing")
    with warnings.catch_warnings():  # what Pillow only warns of, such as odd EXIF data, does not concern the pixels
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        grey = _check(path, [file for of_part in files.values() for listed in of_part.values() for file in listed])
        pairs: dict[str, Any] = {part: _read(of_part, grey) for part, of_part in files.items()}
    try:
        data = Dataset.from_arrays(**pairs, classes=len(classes), name=path.resolve().name)
    except ValueError as error:
        raise ArgumentError("dataset", path, f"{LAYOUT} ({error})") from error
    return data._replace(names=tuple(classes))


def _files(part: Path) -> dict[str, list[Path]]:
    """The files of each class of a part, in order."""
    files = {folder.name: _entries(folder) for folder in _entries(part)}
    if not files:
        raise ArgumentError("dataset", part, f"{LAYOUT}; it is empty")
    for name, listed in files.items():
        if not listed:
            raise ArgumentError("dataset", part / name, "has no images; every class needs some in every part")
        if not name.isprintable():
            raise ArgumentError("dataset", part / name, "the name of a class has to be printable")
    return files


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise ArgumentError("dataset", folder, f"{LAYOUT} ({error.strerror})") from error


def _check(path: Path, files: list[Path]) -> bool:
    """Reads the headers of all images, so that none is decoded that could not be taken; returns whether all are grey."""
    headers = {file: _with_image(file, _header) for file in files}
    first = files[0]
    width, height = headers[first].size
    for file, header in headers.items():
        if header.size != (width, height):
            sizes = f"{header.size[0]}x{header.size[1]} pixels, where {first.relative_to(path)} has {width}x{height}"
            raise ArgumentError("dataset", file, f"images of one size are needed; it has {sizes}")
    grey = all(header.grey for header in headers.values())
    channels = 1 if grey else 3
    what = f"{len(files):,} images of {height}x{width}x{channels} take "
    try:
        require_room(FLOAT * len(files) * width * height * channels, what)
    except ValueError as error:
        raise ArgumentError("dataset", path, str(error)) from error
    return grey


def _read(classes: dict[str, list[Path]], grey: bool) -> tuple[UInt8[np.ndarray, "rows height width channels"], np.ndarray]:
    """The images of a part and their labels."""
    files = [file for listed in classes.values() for file in listed]
    first = _with_image(files[0], _pixels)
    images = np.empty((len(files), *first.shape[:2], 1 if grey else 3), np.uint8)
    for row, file in enumerate(files):
        images[row] = _with_image(file, _pixels)
    return images, np.repeat(np.arange(len(classes)), [len(listed) for listed in classes.values()])


def _with_image(file: Path, use: Any) -> Any:
    """What a function makes of an opened image.

    Raises:
        ArgumentError: names the file, whatever failed.
    """
    import PIL.Image

    try:
        with open_regular(file) as plain, PIL.Image.open(plain, formats=FORMATS) as image:
            return use(image)
    except Exception as error:  # whoever made the file: a decoder can fail in any way
        reason = "none of these can be seen in it" if isinstance(error, PIL.UnidentifiedImageError) else unread(error)
        accepted = f"an image of 8 bits is needed, {', '.join(FORMATS[:-1])} or {FORMATS[-1]} ({reason})"
        raise ArgumentError("dataset", file, accepted) from error


def _header(image: Any) -> Header:
    if image.mode not in GREY + COLOUR:
        raise ValueError(f"its pixels are of Pillow's mode {image.mode}")
    if ";16" in str(image.tile):  # which Pillow would cut
        raise ValueError("it has 16 bits")
    return Header(image.size, image.mode in GREY)


def _pixels(image: Any) -> UInt8[np.ndarray, "height width channels"]:
    """The pixels, with one channel if they are grey and three if not."""
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"it has {frames} frames")
    transparent = "A" in image.getbands() or "transparency" in image.info
    if transparent and image.convert("RGBA").getextrema()[3][0] < 255:
        raise ValueError("it is transparent in places; put it on a background first")
    pixels = np.asarray(image.convert("L" if image.mode in GREY else "RGB"))
    return pixels[..., None] if pixels.ndim == 2 else pixels
