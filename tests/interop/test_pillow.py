"""Pillow: opens every format; saves those that it writes from start to end."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

RNG = np.random.default_rng(4)
PIXELS = RNG.integers(0, 256, (300, 400, 3), np.uint8)
IMAGE = Image.fromarray(PIXELS)
LOSSLESS = ["PNG", "BMP", "PPM", "TGA"]
LOSSY = ["JPEG", "WEBP", "GIF"]
SOUGHT = ["TIFF", "PDF", "ICO", "JPEG2000"]  # Pillow goes back in them while it writes


def encoded(format: str, image: Any = IMAGE) -> bytes:
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


@pytest.mark.parametrize("format", LOSSLESS + LOSSY)
def test_save(target: Any, write: Any, format: str) -> None:
    with write("image") as stream:
        IMAGE.save(stream, format)
    assert target.read("image") == encoded(format)


@pytest.mark.parametrize("format", [*LOSSLESS, *LOSSY, "TIFF", "JPEG2000"])
def test_open(target: Any, read: Any, format: str) -> None:
    target.write("image", encoded(format))
    expected = np.asarray(Image.open(io.BytesIO(encoded(format))).convert("RGB"))
    with read("image") as stream, Image.open(stream) as image:
        assert image.format == format
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), expected)


def test_frames(target: Any, read: Any, write: Any) -> None:
    frames = [Image.fromarray(np.full((20, 20), i * 60, np.uint8)) for i in range(4)]
    with write("image") as stream:
        frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    with read("image") as stream, Image.open(stream) as image:
        assert image.n_frames == 4
        image.seek(2)
        assert np.asarray(image.convert("L"))[0, 0] == 120


@pytest.mark.parametrize("format", SOUGHT)
def test_formats_that_need_a_file(refused: Any, format: str) -> None:
    with refused() as stream:
        IMAGE.save(stream, format)


def failing_chunks() -> Iterator[tuple[bytes, bytes]]:
    yield b"tEXt", b"Comment\0half of it"
    raise ZeroDivisionError("no more chunks")


def test_a_writer_that_fails(broken: Any) -> None:
    metadata = PngImagePlugin.PngInfo()
    metadata.chunks = failing_chunks()
    with broken(ZeroDivisionError, "no more chunks") as stream:
        IMAGE.save(stream, "PNG", pnginfo=metadata)


def test_no_image(target: Any, read: Any) -> None:
    target.write("image", b"no image")
    with read("image") as stream, pytest.raises(Image.UnidentifiedImageError):
        Image.open(stream)
