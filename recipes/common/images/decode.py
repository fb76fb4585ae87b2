"""One encoded picture to pixels of the size and channels asked for, or the reason why it cannot be used.

What is refused rather than guessed at: CMYK (its colours depend on an ink profile), 16 bits a channel (which 8 of them
are the picture is not known), and several frames. What is converted is counted: transparency is laid on white, EXIF
orientation applied, palettes resolved; an embedded colour profile is not applied.
Shapes: H rows, W columns, C channels.
"""

import io
import re
import struct
import warnings
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.rows import BadRow
from recipes.common.images.config import Images

if TYPE_CHECKING:
    from PIL.Image import Image

LEAST_SIDE = 2  # pixels: a single one is a tracking pixel or a placeholder
MODES = {"1", "L", "P", "RGB", "LA", "PA", "RGBA", "RGBX"}
GREY = {"1", "L", "LA"}
# No other format of Pillow's: PostScript, for one, runs a program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# What Pillow's plugins raise at bytes that are no picture, or are half of one; its own opener names the same.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)


def decoded(content: bytes, images: Images, notes: Counter[str]) -> np.ndarray:
    """Pixels uint8 (image_size, image_size, C) of an encoded picture.

    notes: what was converted on the way is counted in it.

    Raises:
        BadRow: it cannot be used; the message says why, and what was expected.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged EXIF block and the like: what matters is raised
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _require_one_picture(image, notes)
                _require_usable(image)
                return _pixels(_upright(image, notes), images, notes)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise BadRow(
                f"more than {Image.MAX_IMAGE_PIXELS:,} pixels\nexpected: a smaller picture"
            ) from None
        except BROKEN as error:
            what = (
                f"{len(content):,} bytes are no picture, or are cut off: {' '.join(str(error).split())[:120]}"
            )
            raise BadRow(f"{what}\nexpected: PNG, JPEG, WebP, BMP, GIF, TIFF or PPM") from None


def fitted(pixels: np.ndarray, images: Images, notes: Counter[str]) -> np.ndarray:
    """Ready pixels uint8 (H, W, 1 or 3) as decoded() gives them. Raises as decoded."""
    from PIL import Image

    height, width, channels = pixels.shape
    if (height, width) == (images.image_size, images.image_size) and channels == images.channels:
        return pixels
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    return _pixels(image, images, notes)


def _require_one_picture(image: "Image", notes: Counter[str]) -> None:
    try:
        image.seek(1)
    except EOFError:
        return
    if image.format != "MPO":  # a camera's JPEG with a preview, or the other eye's view, behind it
        raise BadRow("it holds more than one picture, as an animation does\nexpected: a still picture")
    notes["first_of_several"] += 1
    image.seek(0)


def _require_usable(image: "Image") -> None:
    """By the header alone, before any pixel is decoded."""
    if min(image.size) < LEAST_SIDE:
        raise BadRow(f"{image.width} x {image.height} pixels\nexpected: {LEAST_SIDE} or more on each side")
    if image.mode == "CMYK":
        raise BadRow("CMYK colours\nexpected: RGB or grey, converted by its ink profile")
    # Pillow opens 16-bit colour as RGB and drops 8 bits of each channel: its decoder's own mode tells.
    if image.mode.startswith(("I", "F")) or any(
        re.search(r"(?<!BGR);16", str(tile[3])) for tile in image.tile
    ):
        raise BadRow(f"16 bits or more a channel (mode {image.mode})\nexpected: 8 bits a channel")
    if image.mode not in MODES:
        raise BadRow(f"colours of the mode {image.mode}\nexpected: RGB or grey")


def _upright(image: "Image", notes: Counter[str]) -> "Image":
    """The picture as a viewer shows it: turned as EXIF says, and on white where it is transparent."""
    from PIL import ExifTags, Image, ImageOps

    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        notes["turned_by_exif"] += 1
        image = ImageOps.exif_transpose(image)
    if not image.has_transparency_data:
        return image
    notes["alpha_on_white"] += 1
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("L" if image.mode in GREY else "RGB")


def _pixels(image: "Image", images: Images, notes: Counter[str]) -> np.ndarray:
    pixels = np.array(_resized(_coloured(image, images, notes), images, notes))
    return pixels.reshape(images.image_size, images.image_size, images.channels)


def _coloured(image: "Image", images: Images, notes: Counter[str]) -> "Image":
    mode = "L" if images.channels == 1 else "RGB"
    grey = image.mode in GREY
    if grey != (mode == "L"):
        notes["grey_to_colour" if grey else "colour_to_grey"] += 1
    return image.convert(mode)


def _resized(image: "Image", images: Images, notes: Counter[str]) -> "Image":
    from PIL import Image, ImageOps

    side = images.image_size
    if image.size == (side, side):
        return image
    if images.on_size == "error":
        raise BadRow(
            f"{image.width} x {image.height} pixels\n"
            f"expected: {side} x {side}, or data.on_size=crop to scale and crop it, or pad to lay it on white"
        )
    # Filtered when it shrinks, so no aliasing.
    if images.on_size == "pad":
        notes["scaled_and_padded"] += 1
        return ImageOps.pad(image, (side, side), Image.Resampling.BICUBIC, color="white")
    notes["scaled_and_cropped"] += 1
    return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
