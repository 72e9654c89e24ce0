import contextlib
import io
import pickle

import numpy as np
import pytest
from PIL import Image
from tiny_data import pixels, png

from unmask.data.decoding import UnreadableImageError, decode_image, is_image_name


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
