"""Pictures of every mode and kind of damage."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from tiny_data import pixels, png

from unmask.data.decoding import (
    UnreadableImageError,
    decode_image,
    flattened,
    is_image_name,
    picture_shape,
)
from unmask.data.transform import Transform
from unmask.errors import InputError


def test_decodes_to_the_pixels() -> None:
    assert (np.asarray(decode_image(png(9), "a.png")) == pixels(9)).all()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"no image at all", png(3)[:-30], png(3)[:40], jpeg()[:600], b"\x89PNG\r\n\x1a\n" * 9],
    ids=["empty", "text", "png cut late", "png cut early", "jpeg cut", "png of headers"],
)
def test_damage_of_every_kind_is_one_error_that_names_the_image(content: bytes) -> None:
    with pytest.raises(UnreadableImageError, match=r"^train/7\.png cannot be read") as caught:
        decode_image(content, "train/7.png")
    assert "\n" not in str(caught.value)
    assert caught.value.key == "train/7.png"


def test_any_flipped_byte_is_decoded_or_reported() -> None:
    content = bytearray(png(3))
    for i in range(len(content)):
        damaged = bytes([*content[:i], content[i] ^ 0x41, *content[i + 1 :]])
        with contextlib.suppress(UnreadableImageError):  # anything else escapes and fails
            assert decode_image(damaged, "x").convert("RGB").getbands() == ("R", "G", "B")


def test_the_error_survives_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImageError("a", "b")))
    assert (error.key, error.reason) == ("a", "b")


def test_image_names() -> None:
    assert is_image_name("a.JPEG")
    assert is_image_name("a.webp")
    assert not is_image_name("._a.png")
    assert not is_image_name("a.txt")


def corner(size: tuple[int, int] = (24, 16)) -> Image.Image:
    """White in its upper left quarter."""
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (0, 0, size[0] // 2, size[1] // 2))
    return image


SIDEWAYS = [None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90"]
SIDEWAYS += ["TRANSVERSE", "ROTATE_270"]  # how a picture lies in a file of orientation 1 to 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_stands_upright(kind: str, orientation: int) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x112] = orientation
    turn = SIDEWAYS[orientation - 1]
    lying = corner() if turn is None else corner().transpose(Image.Transpose[turn])
    lying.save(file, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    image = decode_image(file.getvalue(), "x")
    assert image.size == (24, 16)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(corner())).mean() < 6


@pytest.mark.parametrize("orientation", [0, 9, 4242])
def test_an_orientation_that_is_none_changes_nothing(orientation: int) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x112] = orientation
    corner().save(file, "PNG", exif=exif)
    assert (np.asarray(decode_image(file.getvalue(), "x")) == np.asarray(corner())).all()


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL.TiffImagePlugin")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_exif_block_loses_no_picture(kind: str) -> None:
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "a camera"
    block = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    stream = np.random.default_rng(0)
    for trial in range(60):
        damaged = bytearray(block)
        for place in stream.integers(6, len(block), 1 + trial % 5):
            damaged[place] = stream.integers(256)
        file = io.BytesIO()
        corner().save(file, kind, exif=bytes(damaged[: len(damaged) - trial % 20]))
        image = decode_image(file.getvalue(), "x")
        assert sorted(image.size) == [16, 24]


@pytest.mark.parametrize(
    "notes",
    [
        {"icc_profile": b"a" * 2_000_000},
        {"text": "b" * 3_000_000},
        {"text": {f"note {i}": "c" * 900_000 for i in range(80)}},
    ],
    ids=["profile", "long text", "many texts"],
)
def test_no_limit_on_what_lies_beside_the_pixels_loses_a_picture(
    notes: dict[str, bytes] | dict[str, dict[str, str]] | dict[str, str],
) -> None:
    file, text = io.BytesIO(), PngImagePlugin.PngInfo()
    told = notes.get("text", {})
    for name, value in (told if isinstance(told, dict) else {"note": told}).items():
        text.add_text(name, value, zip=True)
    corner().save(file, "PNG", pnginfo=text, icc_profile=notes.get("icc_profile"))
    content = file.getvalue()
    assert (np.asarray(decode_image(content, "x")) == np.asarray(corner())).all()
    with pytest.raises(UnreadableImageError):
        decode_image(content[:-40], "x")


def test_bombs_and_programs_are_refused_by_name() -> None:
    file = io.BytesIO()
    Image.new("1", (15000, 13000)).save(file, "PNG")
    with pytest.raises(UnreadableImageError, match=r"^x cannot be .*decompression bomb"):
        decode_image(file.getvalue(), "x")
    file = io.BytesIO()
    corner().save(file, "EPS")
    with pytest.raises(UnreadableImageError, match=r"^x\.png cannot be .*EPS files are programs"):
        decode_image(file.getvalue(), "x.png")


@pytest.mark.parametrize("kind", ["APNG", "WEBP", "GIF"])
def test_of_several_frames_the_first_is_the_picture(kind: str) -> None:
    file, frames = io.BytesIO(), [corner(), Image.new("RGB", (24, 16), (9, 9, 200))]
    options = {"lossless": True} if kind == "WEBP" else {}
    form = "PNG" if kind == "APNG" else kind
    frames[0].save(file, form, save_all=True, append_images=frames[1:], **options)
    image = decode_image(file.getvalue(), "x")
    assert (np.asarray(image) == np.asarray(corner())).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "LA", "I;16"])
def test_the_header_tells_the_shape_of_the_picture(
    tmp_path: Path, kind: str, orientation: int, mode: str
) -> None:
    exif, file = Image.Exif(), tmp_path / "a"
    exif[0x112] = orientation
    with contextlib.suppress(OSError):  # a mode that the format has not
        corner().convert("L").convert(mode).save(file, kind, exif=exif)
    if file.exists() and file.stat().st_size:
        image = decode_image(file.read_bytes(), "a")
        assert picture_shape(file) == (len(image.getbands()), image.height, image.width)


def test_a_file_without_a_header_has_no_shape(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(3)[:20])
    assert picture_shape(tmp_path / "a.png") is None
    assert picture_shape(tmp_path / "nowhere.png") is None


COLOURS = np.array([[200, 40, 90], [30, 180, 60]], np.uint8)  # of the upper and the lower half
FORMATS = {"PNG": 3, "BMP": 3, "TIFF": 3, "GIF": 60, "WEBP": 3, "JPEG": 12}  # levels they may lose
OPTIONS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 100, "subsampling": 0},
}


def halves() -> Image.Image:
    return Image.fromarray(COLOURS.repeat(8, 0)[:, None].repeat(16, 1))


def clear_on_the_right(mode: str) -> Image.Image:
    """Opaque on the left, transparent on the right."""
    image = halves().convert(mode)
    image.putalpha(Image.fromarray(np.repeat(np.array([[255, 0]], np.uint8), 8, 1).repeat(16, 0)))
    return image


def of_mode(mode: str) -> Image.Image:
    grey = np.asarray(halves().convert("L"))
    if mode in ("RGBA", "LA"):
        return clear_on_the_right(mode)
    if mode in ("RGBa", "La"):
        return clear_on_the_right(mode.upper()).convert(mode)
    if mode == "PA":
        return clear_on_the_right("RGBA").convert(mode)
    if mode == "P":
        return halves().quantize(4)
    if mode.startswith("I;16"):
        return Image.fromarray(grey.astype("<u2") * 257)
    if mode == "I":
        return Image.fromarray(grey.astype(np.int32))
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32) / 255)
    return halves().convert(mode)


def expected(mode: str) -> np.ndarray:
    """What a person sees, ``(16, 16, 3)``."""
    seen = halves()
    if mode == "1":
        seen = seen.convert("1")
    if mode[0] in "1LIF" and mode != "LAB":
        seen = seen.convert("L")
    pixels = np.array(seen.convert("RGB")).astype(int)
    if mode[-1] in "Aa" and mode not in ("LAB",):
        pixels[:, 8:] = 255
    return pixels


def files(mode: str) -> dict[str, bytes]:
    """By format, where Pillow writes the mode without a change of its own."""
    found = {}
    for name in FORMATS:
        file = io.BytesIO()
        # AVIF, GIF and WebP turn deep pixels into bytes before they write them, and clip.
        if name in ("GIF", "WEBP") and mode[0] in "IF":
            continue
        try:
            of_mode(mode).save(file, name, **OPTIONS.get(name, {}))
        except (OSError, ValueError, KeyError):
            continue
        found[name] = file.getvalue()
    return found


@pytest.mark.parametrize("mode", Image.MODES)
def test_every_mode_in_every_format_is_seen_as_a_person_sees_it(mode: str) -> None:
    for name, content in files(mode).items():
        image = decode_image(content, "a")
        assert image.mode in ("L", "RGB")
        flat = mode in ("RGBA", "LA") and name in ("BMP", "GIF")  # formats that lose partial alpha
        wanted = expected(mode if not flat else mode.removesuffix("A") or mode)
        got = np.asarray(image.convert("RGB")).astype(int)
        left = np.abs(got - wanted)[:, :7]
        assert left.max() <= FORMATS[name], f"{mode} in {name}"
        if not flat:
            assert np.abs(got - wanted)[:, 9:].max() <= FORMATS[name], f"{mode} in {name}"


@pytest.mark.parametrize("mode", [m for m in Image.MODES if m != "I;16N"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_in_memory_is_seen_as_its_file_is(mode: str, channels: int) -> None:
    transform = Transform(size=16, crop="none", channels=channels)
    seen = transform(of_mode(mode))
    for name, content in files(mode).items():
        if FORMATS[name] == 3 and not (mode == "RGBA" and name == "BMP"):
            other = transform(decode_image(content, "a"))
            gap = (seen.int() - other.int()).abs().max()
            assert gap <= 3, f"{mode} in {name}"


def test_flattened_leaves_plain_pictures_alone() -> None:
    for mode in ("L", "RGB"):
        image = halves().convert(mode)
        assert flattened(image) is image


def test_palettes_may_be_transparent_in_two_ways() -> None:
    image = halves().quantize(2)
    for clear in (image.getpixel((0, 0)), bytes([0 if image.getpixel((0, 0)) == 0 else 255, 255])):
        file = io.BytesIO()
        image.save(file, "PNG", transparency=clear)
        pixels = np.asarray(decode_image(file.getvalue(), "a"))
        white = (pixels[:8] == 255).all()
        assert white == (clear != b"\xff\xff")
        assert np.abs(pixels[8:].astype(int) - COLOURS[1]).max() <= 8


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_one_colour_may_be_the_transparent_one(mode: str) -> None:
    image, file = of_mode(mode), io.BytesIO()
    image.save(file, "PNG", transparency=image.getpixel((0, 0)))
    pixels = np.asarray(decode_image(file.getvalue(), "a"))
    assert (pixels[:8] == 255).all()
    assert (pixels[8:] == np.asarray(flattened(image))[8:]).all()


def chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def deep_png(pixels: np.ndarray, clear: np.ndarray | None = None) -> bytes:
    """16-bit colour, which Pillow cannot write; ``clear`` is the transparent colour."""
    height, width, bands = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", header)]
    if clear is not None:
        parts.append(chunk(b"tRNS", clear.astype(">u2").tobytes()))
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_sixteen_bits_a_channel_keep_their_high_byte(bands: int) -> None:
    deep = np.random.default_rng(bands).integers(0, 65536, (6, 5, bands)).astype(np.uint16)
    if bands in (2, 4):
        deep[..., -1] = 65535
        deep[0, 0, -1] = 0
    image = decode_image(deep_png(deep), "a")
    colour = deep[..., : 1 if bands < 3 else 3] >> 8
    got = np.asarray(image).reshape(6, 5, -1)
    assert (got.reshape(30, -1)[1:] == colour.reshape(30, -1)[1:]).all()
    assert (got[0, 0] == (255 if bands in (2, 4) else colour[0, 0])).all()


def test_a_transparent_colour_of_sixteen_bits() -> None:
    deep = np.full((4, 4, 3), 0x4321, np.uint16)
    deep[0, 0] = (0x1234, 0x5678, 0x9ABC)
    pixels = np.asarray(decode_image(deep_png(deep, deep[0, 0]), "a"))
    assert (pixels[0, 0] == 255).all()
    assert (pixels.reshape(-1, 3)[1:] == 0x43).all()


RAMP = np.linspace(0, 1, 4096).reshape(64, 64)


def tiff(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF")
    return file.getvalue()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_a_ramp_of_any_usual_depth_goes_from_black_to_white(bits: int, kind: type) -> None:
    deep = (RAMP * (2**bits - 1)).astype(kind)
    pixels = np.asarray(decode_image(tiff(deep), "a"))
    assert (pixels == deep.astype(np.int64) >> (bits - 8)).all()
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("top", [1, 255])
def test_a_ramp_of_floats_goes_from_black_to_white(top: int) -> None:
    pixels = np.asarray(decode_image(tiff((RAMP * top).astype(np.float32)), "a"))
    assert np.abs(pixels - RAMP * 255).max() <= 0.51
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("top", [3, 90, 255, 256, 700, 4095, 5000, 16384, 40000, 65535])
def test_no_depth_turns_a_picture_black_or_clips_it(top: int) -> None:
    """What is brighter stays brighter, and the brightest is as bright as in 8 bits or 64 of 255."""
    pixels = np.asarray(decode_image(tiff((RAMP * top).astype(np.int32)), "a")).astype(int)
    assert (np.diff(pixels.ravel()) >= 0).all()
    assert pixels.max() >= min(top, 64)
    assert (pixels == 255).mean() < 0.02


def test_a_file_that_states_its_depth_is_believed() -> None:
    """Pillow writes no 12-bit TIFF; this one is 2 x 1 pixels, 0x123 and 0x456."""
    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 122)]
    tags += [(277, 3, 1), (278, 3, 1), (279, 4, 3)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    content = content.ljust(122, b"\0") + bytes([0x12, 0x34, 0x56])
    assert np.asarray(decode_image(content, "a")).tolist() == [[0x12, 0x45]]


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((4, 4), np.nan, np.float32), "floats from nan to nan"),
        (np.full((4, 4), np.inf, np.float32), "floats from inf to inf"),
        (np.array([[0, 1.5]], np.float32), "floats from 0 to 1.5 are neither"),
        (np.array([[-0.5, 1]], np.float32), "floats from -0.5 to 1 are neither"),
        (np.array([[0, 4000]], np.float32), "floats from 0 to 4000 are neither"),
        (np.array([[0, 70000]], np.int32), "whole numbers from 0 to 70000 have no known white"),
        (np.array([[-1, 9]], np.int32), "whole numbers from -1 to 9 have no known white"),
    ],
)
def test_depths_that_cannot_be_known_are_refused_by_name(pixels: np.ndarray, reason: str) -> None:
    with pytest.raises(InputError, match=f"^x/7.tif cannot be read as an image .{reason}") as said:
        decode_image(tiff(pixels), "x/7.tif")
    assert "convert it to 8 or 16 bits" in str(said.value)
    with pytest.raises(InputError, match=reason):
        Transform(size=1)(Image.fromarray(pixels))


def test_a_transform_does_not_change_the_picture_it_is_given() -> None:
    image = halves()
    image.info["transparency"] = (0x1234, 0x5678, 0x9ABC)
    before = image.info["transparency"]
    assert torch.equal(Transform(size=4)(image), Transform(size=4)(image))
    assert image.info["transparency"] == before
