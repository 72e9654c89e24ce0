import contextlib
import io
import pickle

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from tiny_data import pixels, png

from unmask.data.decoding import UnreadableImageError, decode_image, is_image_name, picture_shape


def test_decodes_to_the_pixels():
    assert (np.asarray(decode_image(png(9), "a.png")) == pixels(9)).all()


def jpeg():
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"no image at all", png(3)[:-30], png(3)[:40], jpeg()[:600], b"\x89PNG\r\n\x1a\n" * 9],
    ids=["empty", "text", "png cut late", "png cut early", "jpeg cut", "png of headers"],
)
def test_damage_of_every_kind_is_one_error_that_names_the_image(content):
    with pytest.raises(UnreadableImageError, match=r"^train/7\.png cannot be read") as caught:
        decode_image(content, "train/7.png")
    assert "\n" not in str(caught.value)
    assert caught.value.key == "train/7.png"


def test_any_flipped_byte_is_decoded_or_reported():
    content = bytearray(png(3))
    for i in range(len(content)):
        damaged = bytes([*content[:i], content[i] ^ 0x41, *content[i + 1 :]])
        with contextlib.suppress(UnreadableImageError):  # anything else escapes and fails
            assert decode_image(damaged, "x").convert("RGB").getbands() == ("R", "G", "B")


def test_the_error_survives_a_worker_process():
    error = pickle.loads(pickle.dumps(UnreadableImageError("a", "b")))
    assert (error.key, error.reason) == ("a", "b")


def test_image_names():
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
def test_every_orientation_stands_upright(kind, orientation):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x112] = orientation
    turn = SIDEWAYS[orientation - 1]
    lying = corner() if turn is None else corner().transpose(Image.Transpose[turn])
    lying.save(file, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    image = decode_image(file.getvalue(), "x")
    assert image.size == (24, 16)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(corner())).mean() < 6


@pytest.mark.parametrize("orientation", [0, 9, 4242])
def test_an_orientation_that_is_none_changes_nothing(orientation):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x112] = orientation
    corner().save(file, "PNG", exif=exif)
    assert (np.asarray(decode_image(file.getvalue(), "x")) == np.asarray(corner())).all()


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL.TiffImagePlugin")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_exif_block_loses_no_picture(kind):
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
def test_no_limit_on_what_lies_beside_the_pixels_loses_a_picture(notes):
    file, text = io.BytesIO(), PngImagePlugin.PngInfo()
    told = notes.get("text", {})
    for name, value in (told if isinstance(told, dict) else {"note": told}).items():
        text.add_text(name, value, zip=True)
    corner().save(file, "PNG", pnginfo=text, icc_profile=notes.get("icc_profile"))
    content = file.getvalue()
    assert (np.asarray(decode_image(content, "x")) == np.asarray(corner())).all()
    with pytest.raises(UnreadableImageError):
        decode_image(content[:-40], "x")


def test_bombs_and_programs_are_refused_by_name():
    file = io.BytesIO()
    Image.new("1", (15000, 13000)).save(file, "PNG")
    with pytest.raises(UnreadableImageError, match=r"^x cannot be .*decompression bomb"):
        decode_image(file.getvalue(), "x")
    file = io.BytesIO()
    corner().save(file, "EPS")
    with pytest.raises(UnreadableImageError, match=r"^x\.png cannot be .*EPS files are programs"):
        decode_image(file.getvalue(), "x.png")


@pytest.mark.parametrize("kind", ["APNG", "WEBP", "GIF"])
def test_of_several_frames_the_first_is_the_picture(kind):
    file, frames = io.BytesIO(), [corner(), Image.new("RGB", (24, 16), (9, 9, 200))]
    options = {"lossless": True} if kind == "WEBP" else {}
    form = "PNG" if kind == "APNG" else kind
    frames[0].save(file, form, save_all=True, append_images=frames[1:], **options)
    image = decode_image(file.getvalue(), "x")
    assert (np.asarray(image) == np.asarray(corner())).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "LA", "I;16"])
def test_the_header_tells_the_shape_of_the_picture(tmp_path, kind, orientation, mode):
    exif, file = Image.Exif(), tmp_path / "a"
    exif[0x112] = orientation
    with contextlib.suppress(OSError):  # a mode that the format has not
        corner().convert("L").convert(mode).save(file, kind, exif=exif)
    if file.exists() and file.stat().st_size:
        image = decode_image(file.read_bytes(), "a")
        assert picture_shape(file) == (len(image.getbands()), image.height, image.width)


def test_a_file_without_a_header_has_no_shape(tmp_path):
    (tmp_path / "a.png").write_bytes(png(3)[:20])
    assert picture_shape(tmp_path / "a.png") is None
    assert picture_shape(tmp_path / "nowhere.png") is None
