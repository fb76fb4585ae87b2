"""Catches a picture that is misread without a word: turned, see-through, cut off, animated, in ink or in 16 bits."""

import io
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pipeline.data.rows import BadRow
from recipes.common.images.decode import decoded, fitted


@pytest.fixture
def read(settings):
    """`read(content, **settings)`: (pixels, notes)."""

    def decode(content, **given):
        notes = Counter()
        return decoded(content, settings(**given), notes), dict(notes)

    return decode


def saved(image, kind="png", **options):
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def png(depth, colour, raw, side=8):
    """A PNG as no encoder of Pillow's writes it; raw: the bytes of its lines."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "webp", "tiff", "ppm"])
def test_lossless_formats_give_the_pixels_that_went_in(read, kind):
    flat = np.full((8, 8, 3), (10, 200, 30), np.uint8)  # a colour that GIF's palette can hold
    options = {"lossless": True} if kind == "webp" else {}
    pixels, notes = read(saved(Image.fromarray(flat), kind, **options))
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, flat)
    assert notes == {}


def test_a_jpeg_is_near_to_what_went_in(read):
    flat = np.full((8, 8, 3), (10, 200, 30), np.uint8)
    pixels, _ = read(saved(Image.fromarray(flat), "jpeg", quality=95))
    assert np.abs(pixels.astype(int) - flat).max() <= 2  # measured 1


@pytest.mark.parametrize("given, channels, note", [("L", 3, "grey_to_colour"), ("RGB", 1, "colour_to_grey")])
def test_grey_and_colour_become_what_is_asked_for_and_are_counted(read, given, channels, note):
    pixels, notes = read(
        saved(Image.new(given, (8, 8), 77 if given == "L" else (255, 0, 0))), channels=channels
    )
    assert pixels.shape == (8, 8, channels) and notes == {note: 1}
    assert (pixels == (77 if given == "L" else 76)).all()  # 0.299 of 255, ITU-R BT.601


def test_a_palette_is_resolved(read, picture):
    image = Image.fromarray(picture(1)).quantize(16)
    pixels, notes = read(saved(image))
    assert np.array_equal(pixels, np.array(image.convert("RGB"))) and notes == {}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(read, mode):
    if mode == "P":
        image = Image.new("P", (8, 8), 0)
        image.putpalette([9, 9, 9])
        content = saved(image, transparency=0)
    else:
        content = saved(Image.new(mode, (8, 8), (9, 9, 9, 0) if mode == "RGBA" else (9, 0)))
    for channels in (1, 3):
        pixels, notes = read(content, channels=channels)
        assert (pixels == 255).all() and notes.pop("alpha_on_white") == 1
        assert bool(notes) == ((mode == "LA") != (channels == 1))


def test_half_transparent_is_half_white(read):
    pixels, _ = read(saved(Image.new("RGBA", (8, 8), (0, 0, 0, 51))))
    assert (pixels == 204).all()


def test_exif_turns_the_picture_upright(read, picture):
    upright = picture(1)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    lying = Image.fromarray(np.rot90(upright))
    pixels, notes = read(saved(lying, exif=exif))
    assert np.array_equal(pixels, upright) and notes == {"turned_by_exif": 1}


def test_another_size_is_refused_or_scaled_and_cropped_at_the_centre(read):
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 255
    with pytest.raises(BadRow, match="48 x 16 pixels\nexpected: 8 x 8, or data.on_size=crop"):
        read(saved(Image.fromarray(wide)))
    pixels, notes = read(saved(Image.fromarray(wide)), on_size="crop")
    assert (pixels[:, 1:-1] == 255).all() and notes == {"scaled_and_cropped": 1}


def test_another_size_is_laid_on_white_whole_where_it_is_to_be_padded(read):
    wide = np.zeros((8, 32, 3), np.uint8)
    pixels, notes = read(saved(Image.fromarray(wide)), on_size="pad")
    assert (pixels[3:5] == 0).all() and (pixels[:3] == 255).all() and (pixels[5:] == 255).all()
    assert notes == {"scaled_and_padded": 1}


def test_ready_pixels_are_fitted_alike(settings, picture):
    notes = Counter()
    grey = picture(1, channels=1)
    assert np.array_equal(fitted(grey, settings(channels=1), notes), grey) and not notes
    assert np.array_equal(fitted(grey, settings(), notes), np.repeat(grey, 3, 2))
    assert fitted(grey, settings(image_size=16, on_size="crop"), notes).shape == (16, 16, 3)
    assert notes == {"grey_to_colour": 2, "scaled_and_cropped": 1}


def frames(kind):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    return saved(first, kind, save_all=True, append_images=[second])


def test_the_first_of_a_cameras_two_pictures_is_the_picture(read):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    pixels, notes = read(saved(first, "mpo", save_all=True, append_images=[second]))
    assert (pixels[..., 0] > 250).all() and (pixels[..., 2] < 5).all() and notes == {"first_of_several": 1}


WIDE_GREY = png(16, 0, (b"\0" + b"\1\2" * 8) * 8)
WIDE_COLOUR = png(16, 2, (b"\0" + b"\1\2" * 24) * 8)
REFUSED = {
    "text": (b"<html>not found</html>", "22 bytes are no picture"),
    "empty": (b"", "0 bytes are no picture"),
    "a format that Pillow reads and we do not": (saved(Image.new("RGB", (8, 8)), "pcx"), "are no picture"),
    "PostScript": (saved(Image.new("RGB", (8, 8)), "eps"), "are no picture"),
    "animated GIF": (frames("gif"), "more than one picture"),
    "animated WebP": (frames("webp"), "more than one picture"),
    "animated PNG": (frames("png"), "more than one picture"),
    "pages of a TIFF": (frames("tiff"), "more than one picture"),
    "CMYK": (saved(Image.new("CMYK", (8, 8)), "jpeg"), "CMYK colours\nexpected: RGB or grey"),
    "16-bit grey": (WIDE_GREY, "16 bits or more a channel"),
    "16-bit colour": (WIDE_COLOUR, "16 bits or more a channel"),
    "16-bit TIFF": (saved(Image.fromarray(np.ones((8, 8), np.uint16)), "tiff"), "16 bits or more a channel"),
    "float TIFF": (saved(Image.fromarray(np.ones((8, 8), np.float32)), "tiff"), "16 bits or more a channel"),
    "Lab TIFF": (saved(Image.new("LAB", (8, 8)), "tiff"), "colours of the mode LAB"),
    "1 x 1": (saved(Image.new("RGB", (1, 1))), "1 x 1 pixels\nexpected: 2 or more"),
    "1 x 9": (saved(Image.new("RGB", (1, 9))), "1 x 9 pixels"),
}


@pytest.mark.parametrize("content, reason", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_with_a_reason(read, content, reason):
    with pytest.raises(BadRow, match=reason) as refused:
        read(content, on_size="crop")
    assert "\nexpected: " in str(refused.value)


def test_the_same_png_in_8_bits_is_read(read):
    pixels, _ = read(png(8, 2, (b"\0" + b"\1\2\3" * 8) * 8))
    assert (pixels == (1, 2, 3)).all()


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "webp", "tiff"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.9])
def test_a_picture_that_is_cut_off_is_refused(read, picture, encode, kind, share):
    content = encode(picture(1, side=64), kind)
    read(content, image_size=64)
    with pytest.raises(BadRow, match="are no picture, or are cut off"):
        read(content[: int(share * len(content))], image_size=64)


def test_a_picture_damaged_anywhere_is_read_or_refused_but_stops_nothing(read, picture, encode):
    random, refused = np.random.default_rng(0), 0
    for kind in ("png", "jpeg", "gif", "bmp", "webp", "tiff"):
        content = encode(picture(1, side=16), kind)
        for _ in range(60):
            damaged = bytearray(content)
            for place in random.integers(0, len(content), 4):
                damaged[place] = random.integers(256)
            try:
                read(bytes(damaged), image_size=16, on_size="crop")
            except BadRow:
                refused += 1
    assert refused > 60


def test_a_decompression_bomb_is_refused_by_its_header(read, monkeypatch):
    content = saved(Image.new("1", (100, 100)))
    for limit in (9_000, 4_000):  # Pillow warns above the limit, and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(BadRow, match=f"more than {limit:,} pixels"):
            read(content, on_size="crop")
