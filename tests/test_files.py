"""Pictures as they come from cameras, annotation tools and spreadsheets of files: upright, of any mode, or refused by name."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from kd.data.headers import turn_of
from kd.data.lazy_torchvision import functional
from kd.data.plain_files import plain_pixels
from kd.data.reading import BrokenFileError, read_colours, read_image, read_labels, read_pair, read_values

SIZE = (5, 7)
LABELS = (np.arange(35).reshape(SIZE) % 3).astype(np.uint8)
PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def turned(path: Path, array: np.ndarray, orientation: int, **options: object) -> Path:
    """A picture that is stored as it is, with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif, **options)
    return path


def saved(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


# --- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_pictures_are_read_as_a_viewer_shows_them(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = turned(tmp_path / f"a.{suffix}", PHOTO, orientation)
    with Image.open(path) as stored:
        shown = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert (read_image(path).permute(1, 2, 0).numpy() == shown).all()


def test_a_turned_photo_fits_its_upright_mask(tmp_path: Path) -> None:
    upright = np.kron(LABELS * 100, np.ones((8, 8), np.uint8))  # large flat squares: JPEG keeps them nearly
    photo = turned(tmp_path / "a.jpg", np.rot90(upright), 6, quality=95)
    mask = saved(tmp_path / "a.png", upright // 100)
    image, labels = read_pair(photo, mask)
    assert image.shape == (3, *upright.shape)
    assert (image[0].int() - 100 * labels.int()).abs().max() < 20


def test_a_picture_that_is_too_large_to_open_is_not_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = turned(tmp_path / "a.png", PHOTO, 6)
    assert turn_of(path) == 6
    monkeypatch.setenv("KD_MAX_PIXELS", "10")
    assert turn_of(path) == 1


def test_damaged_exif_is_no_reason_to_lose_a_photo(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(PHOTO).save(path, exif=b"Exif\0\0nonsense")
    assert read_image(path).shape == (3, *SIZE)


# --- photos


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_photos_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(PHOTO).convert("L").convert("RGB")
    source = grey.convert(mode)
    path = saved(tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png"), source)
    image = read_image(path)
    assert (image.shape, image.dtype) == ((3, *SIZE), torch.uint8)
    if mode not in ("1", "P", "YCbCr"):
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - np.asarray(grey)).max() <= 1


def test_a_cmyk_jpeg_is_no_negative(tmp_path: Path) -> None:
    white = Image.new("RGB", (16, 16), (250, 250, 250)).convert("CMYK")
    assert read_image(saved(tmp_path / "a.jpg", white)).float().mean() > 230


@pytest.mark.parametrize("array", [np.full(SIZE, 4000, np.uint16), np.full(SIZE, 70000, np.int32), np.ones(SIZE, np.float32)])
def test_deep_photos_are_refused_rather_than_clipped_to_white(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(BrokenFileError, match=r"a\.tif: is a grey image of more than 8 bits .* Convert the images to 8 bits"):
        read_image(saved(tmp_path / "a.tif", array))


# --- masks


def palette_image() -> Image.Image:
    image = Image.fromarray(LABELS).convert("P")
    image.putdata(LABELS.flatten().tolist())
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    return image


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a.png", Image.fromarray(LABELS)),
        ("a.png", palette_image()),
        ("a.gif", palette_image()),
        ("a.png", Image.fromarray(LABELS.astype(np.uint16))),
        ("a.tif", Image.fromarray(LABELS.astype(np.uint16))),
        ("a.tif", Image.fromarray(LABELS.astype(np.int32))),
        ("a.png", Image.merge("LA", (Image.fromarray(LABELS), Image.new("L", SIZE[::-1], 7)))),
        ("a.bmp", Image.fromarray(LABELS)),
    ],
    ids=["L", "P", "GIF", "I;16", "TIFF I;16", "TIFF I", "LA", "BMP"],
)
def test_masks_of_one_channel_keep_their_numbers(tmp_path: Path, name: str, image: Image.Image) -> None:
    labels = read_labels(saved(tmp_path / name, image))
    assert labels.dtype == torch.uint8
    assert (labels.numpy() == LABELS).all()


def test_masks_of_one_bit_hold_0_and_255(tmp_path: Path) -> None:
    labels = read_labels(saved(tmp_path / "a.png", Image.fromarray(LABELS > 0)))
    assert (labels.numpy() == 255 * (LABELS > 0)).all()


def test_deep_numbers_reach_a_data_set_that_maps_them(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", LABELS.astype(np.uint16) * 1000)
    assert read_values(path).max() == 2000
    with pytest.raises(BrokenFileError, match=r"a\.png: \d+ pixels hold values beyond 0\.\.255, first (1000|2000)"):
        read_labels(path)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
def test_painted_masks_are_refused_with_the_remedy(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), Image.fromarray(PHOTO).convert(mode))
    with pytest.raises(BrokenFileError, match=rf"is a {mode} image; .* declare them .*data\.colours="):
        read_labels(path)


@pytest.mark.parametrize("read", [read_labels, read_values, read_colours])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_masks_saved_as_jpeg_are_refused_whatever_their_suffix(tmp_path: Path, name: str, read: object) -> None:
    path = saved(tmp_path / name, LABELS * 50, format="JPEG")
    rule = "is a JPEG; its lossy compression invents labels .* again from their source, as PNG"
    with pytest.raises(BrokenFileError, match=f"{re.escape(str(path))}: {rule}"):
        read(path)  # type: ignore[operator]


def test_colours_of_painted_masks(tmp_path: Path) -> None:
    painted = np.asarray(palette_image().convert("RGB"))
    assert (read_colours(saved(tmp_path / "p.png", palette_image())) == painted).all()
    transparent = Image.fromarray(painted).convert("RGBA")
    transparent.putalpha(Image.fromarray(LABELS * 100))
    assert (read_colours(saved(tmp_path / "rgba.png", transparent)) == painted).all()
    assert (read_colours(saved(tmp_path / "grey.png", LABELS)) == LABELS[..., None]).all()
    with pytest.raises(BrokenFileError, match=r"which has no colours; declare data\.classes without colours"):
        read_colours(saved(tmp_path / "deep.png", LABELS.astype(np.uint16)))


def test_labels_of_another_size_name_both_sizes(tmp_path: Path) -> None:
    photo, mask = saved(tmp_path / "a.png", PHOTO), saved(tmp_path / "m.png", LABELS.T)
    with pytest.raises(BrokenFileError, match=r"m\.png: is 7x5, its image 5x7; label and image must have one size"):
        read_pair(photo, mask)


# --- what the header says


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_colours_of_16_bits_are_refused_rather_than_cut_to_8(tmp_path: Path, name: str) -> None:
    """12-bit photos became 0 to 15, and mIoU fell from 73 to 28, without a word."""
    deep = np.random.default_rng(0).integers(0, 4096, (*SIZE, 3)).astype(np.uint16)
    path = (png16 if name.endswith("png") else tiff16)(tmp_path / name, deep)
    for read in (read_image, read_colours):
        with pytest.raises(BrokenFileError, match=r"has 16 bits a channel, of which 8 alone would be read; .* Convert"):
            read(path)


def png16(path: Path, pixels: np.ndarray) -> Path:
    """An RGB PNG of 16 bits, which Pillow cannot write."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def tiff16(path: Path, pixels: np.ndarray) -> Path:
    """An uncompressed RGB TIFF of 16 bits, little endian."""
    height, width = pixels.shape[:2]
    content = pixels.astype("<u2").tobytes()
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 14)]
    entries += [(277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(content)), (284, 3, 1, 1)]
    start = 14 + len(content)
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0" * 4
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + struct.pack("<HHH", 16, 16, 16) + content + table)
    return path


def test_a_picture_of_several_pages_is_refused(tmp_path: Path) -> None:
    first, second = Image.fromarray(PHOTO), Image.fromarray(255 - PHOTO)
    path = saved(tmp_path / "a.tif", first, save_all=True, append_images=[second])
    with pytest.raises(BrokenFileError, match="holds 2 pages or frames, of which one alone would be read; split it"):
        read_image(path)
    labels = Image.fromarray(LABELS)
    path = saved(tmp_path / "b.tif", labels, save_all=True, append_images=[labels])
    with pytest.raises(BrokenFileError, match="holds 2 pages"):
        read_labels(path)


@pytest.mark.parametrize(
    ("name", "options"), [("a.tif", {"compression": "jpeg"}), ("a.webp", {"quality": 50}), ("b.webp", {"lossless": True})]
)
def test_lossy_codecs_inside_other_files_are_refused_for_masks(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    mask = np.repeat(np.repeat(LABELS, 8, 0), 8, 1)
    image = Image.fromarray(mask if name.endswith("tif") else np.stack([mask * 80] * 3, -1))
    path = saved(tmp_path / name, image, **options)
    read = read_labels if name.endswith("tif") else read_colours
    if options.get("lossless"):
        assert (read(path)[..., 0] == mask * 80).all()
        return
    with pytest.raises(BrokenFileError, match=r"is a lossy (TIFF|WEBP); its lossy compression invents labels"):
        read(path)
    assert read_image(path).shape[0] == 3  # a photo may be lossy


def test_the_largest_picture_is_a_limit_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", PHOTO)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own would refuse it
    assert read_image(path).shape == (3, *SIZE)
    assert Image.MAX_IMAGE_PIXELS == 10
    monkeypatch.setenv("KD_MAX_PIXELS", "1e9")
    with pytest.raises(BrokenFileError, match="KD_MAX_PIXELS: is '1e9' in the environment; it is a number of pixels"):
        read_image(path)
    monkeypatch.setenv("KD_MAX_PIXELS", "34")
    with pytest.raises(BrokenFileError, match=r"has 5 x 7 pixels, more than the 34 that are decoded; .*KD_MAX_PIXELS"):
        read_image(path)


# --- plain files, which torchvision decodes where it is loaded


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(path: Path, kind: bytes, content: bytes, at_the_end: bool = False) -> Path:
    """A PNG with one more chunk, behind its header or behind its pixels."""
    data = path.read_bytes()
    place = len(data) - 12 if at_the_end else 33
    path.write_bytes(data[:place] + chunk(kind, content) + data[place:])
    return path


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes().removeprefix(b"Exif\0\0")


CHUNKS = [
    (b"gAMA", struct.pack(">I", 20000), False),
    (b"sRGB", b"\0", False),
    (b"tRNS", bytes((0, int(PHOTO[0, 0, 0]), 0, int(PHOTO[0, 0, 1]), 0, int(PHOTO[0, 0, 2]))), False),
    (b"sBIT", b"\5\6\5", False),
    (b"tEXt", b"Software\0by hand", False),
    (b"eXIf", exif(6), False),
    (b"eXIf", exif(6), True),
    (b"tIME", struct.pack(">H5B", 2020, 1, 1, 1, 1, 1), True),
]


@pytest.mark.parametrize(("kind", "content", "at_the_end"), CHUNKS)
def test_chunks_of_a_png_are_heeded_with_and_without_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes, content: bytes, at_the_end: bool
) -> None:
    functional()
    path = with_chunk(saved(tmp_path / "a.png", PHOTO), kind, content, at_the_end)
    image = read_image(path)
    monkeypatch.setattr("kd.data.reading.plain_pixels", lambda path, image: None)
    assert torch.equal(image, read_image(path))
    assert tuple(image.shape[1:]) == (SIZE[::-1] if kind == b"eXIf" else SIZE)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 20}, {"dpi": (300, 300)}])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_plain_files_hold_the_same_with_and_without_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, object]
) -> None:
    functional()
    photo = np.random.default_rng(1).integers(0, 256, (37, 53, 3)).astype(np.uint8)
    colour, grey = saved(tmp_path / name, photo, **options), saved(tmp_path / f"grey_{name}", photo[..., 0], **options)
    with Image.open(colour) as image:
        assert (plain_pixels(colour, image) is not None) == (image.format == "JPEG")
    found = [read_image(colour), read_image(grey)]
    monkeypatch.setattr("kd.data.reading.plain_pixels", lambda path, image: None)
    assert all(torch.equal(one, read_image(path)) for one, path in zip(found, (colour, grey), strict=True))


ROWS = b"".join(b"\0" + row.tobytes() for row in PHOTO)
PACKED = {
    "whole": zlib.compress(ROWS),
    "header": b"\0" + zlib.compress(ROWS)[1:],
    "too short": zlib.compress(ROWS[:60]),
    "cut off": zlib.compress(ROWS)[:30],
    "filter": zlib.compress(b"\x09" + ROWS[1:]),
    "empty": b"",
    "no rows": zlib.compress(b""),
}


@pytest.mark.parametrize("kind", PACKED)
def test_rows_that_were_packed_wrong_are_no_crash(tmp_path: Path, kind: str) -> None:
    """Their check sums are right; torchvision's decoder ends the process where the rows are not."""
    functional()
    path = tmp_path / "a.png"
    header = struct.pack(">II5B", SIZE[1], SIZE[0], 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    for name, content in ((b"IHDR", header), (b"IDAT", PACKED[kind]), (b"IEND", b"")):
        chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        path.write_bytes(path.read_bytes() + chunk)
    with Image.open(path) as image:
        assert plain_pixels(path, image) is None
    if kind == "whole":
        assert (read_image(path).permute(1, 2, 0).numpy() == PHOTO).all()
    else:
        with pytest.raises(BrokenFileError, match=re.escape(f"{path}: cannot be decoded")):
            read_image(path)


def test_a_header_that_tells_of_more_pixels_than_there_can_be_is_no_picture(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", LABELS)
    content = bytearray(path.read_bytes())
    for tag, size in ((256, 20_000), (257, 20_000), (278, 20_000)):  # width, height, rows of a strip
        place = next(
            content.index(struct.pack("<HHI", tag, kind, 1)) for kind in (3, 4) if struct.pack("<HHI", tag, kind, 1) in content
        )
        content[place : place + 12] = struct.pack("<HHII", tag, 4, 1, size)
    path.write_bytes(content)
    with pytest.raises(BrokenFileError, match="tells of 20000 x 20000 pixels, and so many are not in"):
        read_labels(path)
    blank = saved(tmp_path / "b.png", np.zeros((5000, 5000), np.uint8))
    assert read_labels(blank).shape == (5000, 5000)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_damage_says_the_same_with_and_without_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, seed: int
) -> None:
    functional()
    draw = np.random.default_rng(seed)
    path = saved(tmp_path / name, draw.integers(0, 256, (37, 53, 3)).astype(np.uint8))
    data = bytearray(path.read_bytes())
    place = int(draw.integers(8, len(data) - 20))
    if seed % 3 == 0:
        data = data[:place]
    elif seed % 3 == 1:
        data[place] ^= 1 << seed % 8
    else:
        del data[place : place + 3]
    path.write_bytes(data)

    def outcome() -> object:
        try:
            return read_image(path).numpy().tobytes()
        except BrokenFileError as error:
            return str(error)

    first = outcome()
    monkeypatch.setattr("kd.data.reading.plain_pixels", lambda path, image: None)
    assert outcome() == first
