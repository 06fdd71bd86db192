"""Preprocessing: the geometry and the arithmetic, each against an answer worked out by hand."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgepipe.runners.images import (
    Geometry,
    ImageError,
    Preprocessing,
    batches,
    check_image,
    load_image,
    normalize,
    ordered,
    to_pixels,
)

REFUSED = r"is one of|have \d values? each|can't cut|no preprocessing|a size is|no side may"
SQUASH = Preprocessing(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SHORTER = Preprocessing(size=8, mean=(0, 0, 0), std=(1, 1, 1), resize="shorter-side", resize_to=8)


def test_normalize_scales_and_moves_the_channels() -> None:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    pixels[0, 0, 1] = (255, 51, 0)
    preprocessing = Preprocessing(size=2, mean=(0.5, 0.2, 0.0), std=(0.5, 0.1, 1.0))
    tensor = normalize(pixels, preprocessing)
    assert tensor.shape == (1, 3, 2, 2)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    np.testing.assert_allclose(tensor[0, :, 0, 1], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(tensor[0, :, 0, 0], [-1, -2, 0], atol=1e-6)


def test_normalize_is_the_formula_in_float32_to_the_last_bit() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    preprocessing = Preprocessing(16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    mean, std = (np.array(part, np.float32) for part in (preprocessing.mean, preprocessing.std))
    expected = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    found = normalize(pixels, preprocessing)
    assert found.transpose(0, 2, 3, 1).tobytes() == expected.tobytes()


def test_a_last_batch_is_filled_up_with_its_own_rows() -> None:
    parts = list(batches(np.arange(7), 3))
    assert [part.tolist() for part, _, _ in parts] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert [(rows.start, rows.stop, valid) for _, rows, valid in parts] == [
        (0, 3, 3),
        (3, 6, 3),
        (6, 7, 1),
    ]


def test_squash_uses_the_whole_image_and_shorter_side_its_centre() -> None:
    image = np.zeros((8, 24), np.uint8)
    image[:, 8:16] = 200
    assert np.all(to_pixels(image, SHORTER) == 200)
    squashed = to_pixels(image, SQUASH)
    assert squashed.shape == (8, 8, 3)
    assert squashed[0, 0, 0] == 0
    assert squashed[4, 4, 0] > 150


@pytest.mark.parametrize("shape", [(8, 8), (9, 31), (31, 9), (1, 1), (300, 7)])
@pytest.mark.parametrize("preprocessing", [SQUASH, SHORTER], ids=["squash", "shorter-side"])
def test_any_shape_becomes_the_input_size(
    shape: tuple[int, int], preprocessing: Preprocessing
) -> None:
    image = np.full((*shape, 3), 7, np.uint8)
    assert np.array_equal(to_pixels(image, preprocessing), np.full((8, 8, 3), 7, np.uint8))


def test_another_input_size_keeps_the_proportion() -> None:
    preprocessing = Preprocessing(224, (0, 0, 0), (1, 1, 1), "shorter-side", 256)
    assert preprocessing.at(112).resize_to == 128
    assert preprocessing.at(None) == preprocessing


def test_json_round_trip() -> None:
    assert Preprocessing.from_json(SHORTER.to_json()) == SHORTER


@pytest.mark.parametrize(
    "change",
    [
        {"resize": "fit"},
        {"channels": "gbr"},
        {"mean": [0.5]},
        {"std": [0, 1, 1]},
        {"resize_to": 7},
        {"size": 0},
        {"crop": 3},
        {"size": "large"},
        {"mean": None},
        {"size": [8]},
        {"size": [8, 1 << 15], "resize_to": None},
        {"size": [8, 0], "resize_to": None},
        {"size": [8, "wide"]},
        {"channels": "grey"},
        {"channels": "bands", "std": [1, 1]},
    ],
    ids=str,
)
def test_what_is_no_preprocessing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=REFUSED):
        Preprocessing.from_json(SHORTER.to_json() | change)


def test_presets_keep_their_proportions() -> None:
    assert Preprocessing.preset("imagenet").resize_to == 256
    assert Preprocessing.preset("inception", 299).resize_to == 342
    squashed = Preprocessing.preset("none", 96)
    assert (squashed.resize, squashed.resize_to, squashed.size) == ("squash", None, 96)


def test_squashed_to_more_than_the_input_the_centre_is_cut() -> None:
    image = np.zeros((30, 90, 3), np.uint8)
    image[10:20, 30:60] = 200
    found = to_pixels(image, Preprocessing(8, (0, 0, 0), (1, 1, 1), "squash", 30))
    assert np.all(found == 200)


def test_bgr_turns_the_channels_round_before_mean_and_std() -> None:
    pixels = np.zeros((1, 1, 1, 3), np.uint8)
    pixels[..., 0] = 255
    bgr = Preprocessing(1, (0.1, 0.2, 0.3), (1, 1, 1), channels="bgr")
    np.testing.assert_allclose(normalize(pixels, bgr).ravel(), [-0.1, -0.2, 0.7], atol=1e-6)


def test_a_folded_model_gets_the_pixels_as_they_are() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    folded = Preprocessing(4, (0.1, 0.2, 0.3), (1, 1, 1), folded=True)
    assert normalize(pixels, folded) is pixels
    assert (folded.shape, SQUASH.shape) == ((4, 4, 3), (3, 8, 8))


def test_a_strip_is_not_enlarged_as_a_whole() -> None:
    strip = np.full((1, 2_000_000, 3), 7, np.uint8)
    assert np.all(to_pixels(strip, Preprocessing.preset("imagenet")) == 7)


def test_a_squares_record_is_what_it_was() -> None:
    """Manifests and bundles that are out there have it; a stage's key is made of it."""
    assert Preprocessing.preset("imagenet", 112).to_json() == {
        "size": 112,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "resize": "shorter-side",
        "resize_to": 128,
        "interpolation": "bilinear",
        "channels": "rgb",
        "folded": False,
    }


WIDE = Preprocessing((4, 8), (0.0,), (1.0,), channels="grey")


def test_a_rectangle_is_height_before_width() -> None:
    assert Preprocessing.from_json(WIDE.to_json()) == WIDE
    assert WIDE.to_json()["size"] == [4, 8]
    assert (WIDE.shape, WIDE.frame) == ((1, 4, 8), (4, 8, 1))
    assert to_pixels(np.zeros((100, 100), np.uint8), WIDE).shape == (4, 8, 1)
    larger = Preprocessing.preset("imagenet", (448, 640))
    assert (larger.size, larger.resize_to) == ((448, 640), 512)


@pytest.mark.parametrize(
    ("image", "resize_to", "seen"),
    [
        # width, height -> left, top, right, bottom
        ((16, 16), None, (0, 4, 16, 12)),  # as wide as the input asks for, the middle of its height
        ((64, 16), None, (16, 0, 48, 16)),
        ((64, 16), 8, (24, 4, 40, 12)),  # the shorter side to 8, of which 4 are left
        ((16, 16), 5, (0, 4, 16, 12)),  # 5 pixels would not cover the width
        ((16, 64), 16, (4, 30, 12, 34)),
    ],
    ids=str,
)
def test_the_shorter_side_is_resized_until_the_image_covers_the_input(
    image: tuple[int, int], resize_to: int | None, seen: tuple[int, ...]
) -> None:
    preprocessing = replace(WIDE, resize="shorter-side", resize_to=resize_to)
    assert Geometry.of(*image, preprocessing).seen == seen
    left, top, right, bottom = seen
    pixels = np.zeros(image[::-1], np.uint8)
    pixels[top:bottom, left:right] = 200
    inner = to_pixels(pixels, preprocessing)[1:-1, 1:-1]
    assert np.all(inner > 190)


def test_a_strip_can_be_as_long_as_the_input_asks_for() -> None:
    strip = np.full((2, 4_000_000), 7, np.uint8)
    long = Preprocessing((32, 2048), (0.0,), (1.0,), "shorter-side", channels="grey")
    assert np.all(to_pixels(strip, long) == 7)


def test_a_squashed_rectangle_loses_the_same_share_of_both_sides() -> None:
    left, top, right, bottom = Geometry.of(100, 100, replace(WIDE, resize_to=8)).seen
    assert (left, top, right, bottom) == (25, 25, 75, 75)


def test_grey_is_made_of_colours_by_their_luma() -> None:
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, :, 0], picture[:, :, 1] = 200, 100
    found = to_pixels(picture, WIDE)
    # ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B
    assert np.all(np.abs(found.astype(float) - (0.299 * 200 + 0.587 * 100)) <= 0.5)
    flat = np.full((4, 8), 7, np.uint8)
    for image in (flat, flat[..., None]):
        np.testing.assert_array_equal(to_pixels(image, WIDE), flat[..., None])


def test_each_band_is_resized_and_normalized_by_itself() -> None:
    mean, std = (0.0, 0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 3.0, 4.0, 5.0)
    bands = Preprocessing(8, mean, std, channels="bands")
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 5), np.uint8)
    found = to_pixels(image, bands)
    tensor = normalize(found[None], bands)
    assert (found.shape, tensor.shape, bands.bands) == ((8, 8, 5), (1, 5, 8, 8), 5)
    for band in range(5):
        alone = to_pixels(image[..., band], Preprocessing(8, (0.0,), (1.0,), channels="grey"))
        np.testing.assert_array_equal(found[..., band], alone[..., 0])
        expected = (alone[..., 0] / 255 - mean[band]) / std[band]
        np.testing.assert_allclose(tensor[0, band], expected, atol=1e-6)


def test_three_bands_are_what_a_picture_of_three_channels_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    colors = Preprocessing.preset("imagenet", 16)
    bands = replace(colors, channels="bands")
    np.testing.assert_array_equal(to_pixels(image, bands), to_pixels(image, colors))


@pytest.mark.parametrize(
    ("channels", "found"),
    [(1, ("grey", 1)), (3, ("rgb", 3)), (6, ("bands", 6)), ("bgr", ("bgr", 3))],
)
def test_channels_by_their_number(channels: int | str, found: tuple[str, int]) -> None:
    assert ordered(channels) == found
    preprocessing = Preprocessing.preset("inception", channels=channels)
    assert (preprocessing.channels, len(preprocessing.mean)) == found
    assert set(preprocessing.std) == {0.5}


def test_a_preset_of_colours_is_for_nothing_else() -> None:
    with pytest.raises(ValueError, match=r"imagenet has a (mean|std) for red, green and blue"):
        Preprocessing.preset("imagenet", channels=4)
    own = Preprocessing.preset("imagenet", channels="grey", mean=(0.4,), std=(0.2,))
    assert (own.resize_to, own.mean, own.std) == (256, (0.4,), (0.2,))


def test_an_array_is_read_as_it_is(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 5), np.uint8)
    for name, stored in (("c.npy", image), ("f.npy", np.asfortranarray(image))):
        np.save(tmp_path / name, stored)
        check_image(tmp_path / name, 5)
        np.testing.assert_array_equal(load_image(tmp_path / name, 5), image)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[4, 4, 4\], uint8 \[H, W, 5\] expected"),
        (np.zeros((4, 4, 5), np.uint16), r"uint16 \[4, 4, 5\], uint8 \[H, W, 5\] expected"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\], uint8"),
        (np.zeros((4, 4, 5, 5), np.uint8), r"uint8 \[4, 4, 5, 5\], uint8"),
        (np.zeros((0, 4, 5), np.uint8), "no .npy array|uint8 .0, 4, 5., uint8"),
        (np.array([{}]), "no .npy array"),
        (b"some text", "no .npy array"),
        (b"", "no .npy array"),
    ],
    ids=["four", "deep", "flat", "batch", "empty", "objects", "text", "nothing"],
)
def test_what_is_no_array_of_so_many_bands_is_refused(
    tmp_path: Path, content: np.ndarray | bytes, says: str
) -> None:
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    for call in (load_image, check_image):
        with pytest.raises(ImageError, match=f"x.npy: ({says})"):
            call(path, 5)


def test_an_array_that_was_cut_is_refused_and_so_is_one_that_is_not_there(tmp_path: Path) -> None:
    np.save(tmp_path / "cut.npy", np.zeros((64, 64, 5), np.uint8))
    whole = (tmp_path / "cut.npy").read_bytes()
    for end in (3, 40, 128, 5000):
        (tmp_path / "cut.npy").write_bytes(whole[:end])
        with pytest.raises(ImageError, match=r"cut.npy: no .npy array"):
            load_image(tmp_path / "cut.npy", 5)
    with pytest.raises(ImageError, match=r"absent.npy: No such file"):
        load_image(tmp_path / "absent.npy", 5)
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(ImageError, match=r"pipe.npy: not a file"):
        load_image(tmp_path / "pipe.npy", 5)


RED, WHITE = (255, 0, 0), (255, 255, 255)


def saved(picture: Image.Image, path: Path, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def near(path: Path, expected: tuple[int, int, int]) -> bool:
    """Whether the whole picture is of one colour, but for what JPEG makes of it."""
    pixels = load_image(path).astype(int)
    return pixels.shape[2] == 3 and bool(np.all(np.abs(pixels - expected) <= 2))


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("L", 100, "grey.png", (100, 100, 100)),
        ("1", 1, "bits.png", WHITE),
        ("I;16", 100 * 256, "grey16.png", (100, 100, 100)),
        ("I;16", 100 * 256, "grey16.tiff", (100, 100, 100)),
        ("RGB", RED, "red.bmp", RED),
        ("RGB", RED, "red.webp", (254, 0, 0)),
        ("RGBA", (255, 0, 0, 255), "opaque.png", RED),
        ("RGBA", (255, 0, 0, 0), "transparent.png", WHITE),
        ("RGBA", (255, 0, 0, 51), "glass.png", (255, 204, 204)),
        ("LA", (0, 0), "transparent-grey.png", WHITE),
        ("CMYK", (0, 255, 255, 0), "print.jpg", (254, 0, 0)),
        ("CMYK", (0, 255, 255, 0), "print.tiff", RED),
        ("YCbCr", (76, 85, 255), "video.jpg", (254, 0, 0)),
    ],
)
def test_pictures_are_decoded_as_a_person_sees_them(
    tmp_path: Path, mode: str, colour: Any, name: str, expected: tuple[int, int, int]
) -> None:
    assert near(saved(Image.new(mode, (12, 6), colour), tmp_path / name), expected)


def test_a_16_bit_portable_greymap(tmp_path: Path) -> None:
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5 2 1 65535\n\x64\x00\xff\xff")
    assert load_image(path)[0].tolist() == [[100, 100, 100], [255, 255, 255]]


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    path = saved(picture, tmp_path / "palette.gif", transparency=1)
    assert load_image(path)[0].tolist() == [list(RED), list(WHITE)]


def test_exif_rotation_is_honoured(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 8), "white")
    picture.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to see it upright
    pixels = load_image(saved(picture, tmp_path / "turned.jpg", exif=exif, quality=95))
    assert pixels.shape == (16, 8, 3)
    assert pixels[0, 0, 1] < 50
    assert pixels[15, 0, 1] > 200


def test_exif_that_is_garbage_does_not_hide_the_picture(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8), RED)
    path = saved(picture, tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nothing")
    assert near(path, (254, 0, 0))


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, WHITE)]
    for name in ("moving.gif", "moving.webp", "moving.png"):
        path = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:])
        assert near(path, RED), name
    stereo = tmp_path / "phone.jpg"  # two pictures in one, as some phones write them
    frames[0].save(stereo, "MPO", save_all=True, append_images=frames[1:])
    assert near(stereo, (254, 0, 0))


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a kilobyte that unpacks to whatever its header says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_460, 10_000, 50_000])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(huge_png(side, side))
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from edgepipe.runners.images import ImageError, load_image, pillow\n"
        "pillow()\n"
        "limit = 64 << 20  # of new memory; a row of such a picture is nothing, all of it 270 MB\n"
        "used = int(Path('/proc/self/statm').read_text().split()[5]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (used + limit, used + limit))\n"
        "try:\n"
        "    load_image(Path('bomb.png'))\n"
        "except ImageError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    expected = "bomb.png: over 89 million pixels; make it smaller\n"
    assert (done.stdout, done.stderr) == (expected, "")


def test_a_truncated_picture_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8)
    path = tmp_path / "cut"
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, kind)
        whole = buffer.getvalue()
        for end in range(0, int(len(whole) * 0.9), 37):
            path.write_bytes(whole[:end])
            with pytest.raises(ImageError, match=r"cut: "):
                load_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no picture"),
        (b"some text", "no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    for call in (load_image, check_image):
        with pytest.raises(ImageError, match=f"x.png: {reason}"):
            call(path)


def test_pixels_without_a_range_are_refused(tmp_path: Path) -> None:
    for dtype in (np.float32, np.int32):
        path = saved(Image.fromarray(np.ones((4, 4), dtype)), tmp_path / "x.tiff")
        with pytest.raises(ImageError, match=r"x\.tiff: .*32-bit pixels"):
            load_image(path)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "nowhere.png").symlink_to("gone")
    for name, reason in {
        "pipe": "not a file",
        "folder": "not a file",
        "circle": "Too many levels of symbolic links",
        "nowhere": "No such file",
    }.items():
        with pytest.raises(ImageError, match=f"{name}.png: {reason}"):
            load_image(tmp_path / f"{name}.png")
