import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from data.pictures import palette_with_alpha
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from torchvision.transforms import v2

from hf_tl.augmentation import identify
from hf_tl.data.decoding.colors import conversion_of, plain_rgb, to_rgb
from hf_tl.data.decoding.images import ImageTransform, Transforms, collate
from hf_tl.data.decoding.opening import decode
from hf_tl.errors import DataError

Transpose = Image.Transpose
COLORS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14
MODES = (
    "1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "RGBX", "RGBa", "La", "I;16",
    "I;16L", "I;16B",
)  # fmt: skip
Image.init()
AVIF = ["AVIF"] if "AVIF" in Image.SAVE else []  # Pillow 11.3 and newer
TO_TENSOR = v2.Compose([v2.Resize((8, 8)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> list:
    return np.asarray(image).tolist()


# Pixels as stored by a camera, so that viewers that apply the tag show COLORS.
@pytest.mark.parametrize(
    ("orientation", "stored_as"),
    [(1, None), (2, Transpose.FLIP_LEFT_RIGHT), (3, Transpose.ROTATE_180), (4, Transpose.FLIP_TOP_BOTTOM),
     (5, Transpose.TRANSPOSE), (6, Transpose.ROTATE_90), (7, Transpose.TRANSVERSE), (8, Transpose.ROTATE_270)],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_rotation_is_applied(orientation: int, stored_as: Transpose | None, kind: str) -> None:
    upright = Image.fromarray(COLORS)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(upright if stored_as is None else upright.transpose(stored_as), kind, exif=exif, **options)
    assert pixels(to_rgb(decode(data))) == COLORS.tolist()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_gray_is_scaled(kind: str) -> None:
    gradient = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    if kind == "PPM":  # older versions of Pillow do not write it
        data = b"P5 64 64 65535\n" + gradient.astype(">u2").tobytes()
    else:
        data = encoded(Image.fromarray(gradient), kind)
    gray = np.asarray(to_rgb(decode(data)))[..., 0]
    assert np.abs(gray.astype(float) - gradient / 257).max() <= 0.5
    assert len(np.unique(gray)) == 256


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_16_bit_modes_keep_their_range_when_dark(mode: str) -> None:
    assert to_rgb(Image.new(mode, (2, 2), 257 * 7)).getpixel((0, 0)) == (7, 7, 7)
    assert to_rgb(Image.new(mode, (2, 2), 128)).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([0, 50_000, 100_000], [0, 128, 255]),
        ([-10, 0, 10], [0, 128, 255]),
        ([-7, -7, -7], [0, 0, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_modes_without_a_range(values: list[int], expected: list[int], dtype: type) -> None:
    gray = np.asarray(to_rgb(Image.fromarray(np.array([values], dtype))))[0, :, 0]
    np.testing.assert_allclose(gray, expected, atol=0.5)


def test_floats_up_to_one_and_missing_values() -> None:
    image = Image.fromarray(np.array([[0.0, 0.2, 1.0, np.nan, np.inf]], np.float32))
    assert pixels(to_rgb(image)) == [[[value] * 3 for value in (0, 51, 255, 0, 0)]]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted_as_pillow_does(kind: str) -> None:
    cmyk = decode(encoded(Image.fromarray(COLORS).convert("CMYK"), kind))
    assert cmyk.mode == "CMYK"
    assert pixels(to_rgb(cmyk)) == pixels(cmyk.convert("RGB"))


def test_lab_is_converted_by_its_profile() -> None:
    np.testing.assert_allclose(to_rgb(Image.new("LAB", (1, 1), (255, 128, 128))).getpixel((0, 0)), 255, atol=1)
    red, green, blue = to_rgb(Image.new("LAB", (1, 1), (136, 208, 195))).getpixel((0, 0))  # L 53, a 80, b 67: red
    assert red > 245
    assert max(green, blue) < 20


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_transparent_palette_is_laid_on_white(kind: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((1, 0), 1)
    opaque = to_rgb(decode(encoded(image, kind)))
    assert pixels(opaque) == [[[10, 20, 30], [200, 0, 0]]]
    transparent = to_rgb(decode(encoded(image, kind, transparency=0)))
    assert pixels(transparent) == [[[255, 255, 255], [200, 0, 0]]]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (1, 1), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (1, 1), (200, 100, 0, 255)), (200, 100, 0)),
        (Image.new("RGBA", (1, 1), (0, 100, 200, 128)), (127, 177, 227)),
        (Image.new("RGBa", (1, 1), (0, 50, 100, 128)), (127, 177, 227)),
        (Image.new("LA", (1, 1), (0, 128)), (127, 127, 127)),
        (Image.new("LA", (1, 1), (0, 128)).convert("La"), (127, 127, 127)),
        (palette_with_alpha((1, 1), 0), (255, 255, 255)),
    ],
)
def test_alpha_is_laid_on_white(image: Image.Image, expected: tuple[int, int, int]) -> None:
    np.testing.assert_allclose(to_rgb(image).getpixel((0, 0)), expected, atol=1)


def test_transparent_color_of_a_png_is_laid_on_white() -> None:
    data = encoded(Image.fromarray(COLORS), "PNG", transparency=(0, 14, 28))
    assert to_rgb(decode(data)).getpixel((0, 0)) == (255, 255, 255)


def test_one_bit() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert pixels(to_rgb(image)) == [[[0] * 3, [255] * 3]]


@settings(max_examples=150, deadline=None)
@given(mode=st.sampled_from(MODES), width=st.integers(1, 9), height=st.integers(1, 9), turn=st.integers(1, 8))
def test_every_mode_and_size_becomes_rgb(mode: str, width: int, height: int, turn: int) -> None:
    image = Image.new(mode, (width, height))
    image.getexif()[0x0112] = turn
    converted = to_rgb(image)
    assert converted.mode == "RGB"
    assert converted.size == ((height, width) if turn >= 5 else (width, height))


def test_decode_takes_every_stored_form(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLORS).save(path)
    data = path.read_bytes()
    forms = [path, str(path), data, Image.open(path), {"bytes": data, "path": None}, {"bytes": None, "path": str(path)}]
    assert all(pixels(decode(form)) == COLORS.tolist() for form in forms)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("reduced", [False, True])
def test_truncated_file_is_named(tmp_path: Path, kind: str, reduced: bool) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = tmp_path / "cut.img"
    path.write_bytes(encoded(noise, kind)[:-900])
    with pytest.raises(DataError, match=r"cut\.img: .*replace or remove it"):
        decode(path, reduced=reduced)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "DDS", *AVIF]),
    cut=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=8),
)
def test_damaged_file_is_an_image_or_a_data_error(kind: str, cut: float, changes: list[tuple[float, int]]) -> None:
    data = bytearray(encoded(Image.fromarray(np.tile(COLORS, (8, 8, 1))), kind))
    for position, value in changes:
        data[int(position * len(data))] = value
    try:
        to_rgb(decode(bytes(data[: int(cut * len(data))])))
    except DataError as error:
        assert "the image" in str(error)  # noqa: PT017


def test_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("1", (10_000, 10_000)), "PNG")
    assert len(data) < 20_000
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(DataError, match=r"bomb\.png: 10000 x 10000 pixels .*MAX_IMAGE_PIXELS"),
    ):
        decode(data, "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(data).size == (10_000, 10_000)


@pytest.fixture(scope="module")
def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2020:01:01 00:00:00"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    return encoded(Image.fromarray(COLORS), "JPEG", exif=exif)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_exif_is_an_image_or_a_data_error(rotated_jpeg: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(rotated_jpeg)
    for position, value in changes:
        data[data.index(b"Exif") + position if b"Exif" in data else position] = value
    try:
        to_rgb(decode(bytes(data)))
    except DataError as error:
        assert "the image" in str(error)  # noqa: PT017


def test_a_rotation_is_applied_though_another_tag_is_unknown(rotated_jpeg: bytes) -> None:
    """Pillow writes all tags again when it applies the orientation, and fails; the image is intact."""
    data = bytearray(rotated_jpeg)
    data[data.index(b"Exif") + 17] = 0  # after byte order, offset and count: an unknown tag
    with pytest.raises(struct.error):
        plain_rgb(Image.open(io.BytesIO(data)))
    assert conversion_of(Image.open(io.BytesIO(data))) == "unreadable EXIF"
    decoded, expected = decode(bytes(data)), Image.open(io.BytesIO(data)).transpose(Transpose.ROTATE_270)
    assert pixels(decoded) == pixels(expected)
    assert pixels(to_rgb(decoded)) == pixels(expected), "not turned twice"


@pytest.mark.parametrize("value", [None, {}, {"bytes": None, "path": None}])
def test_missing_image(value: object) -> None:
    with pytest.raises(DataError, match="row 3: expected an image, found none"):
        decode(value, "row 3")


@pytest.mark.parametrize("value", [b"", b"not an image", "/no/such/file.png", {"bytes": b"GIF89a", "path": "a.gif"}])
def test_unreadable_image(value: object) -> None:
    with pytest.raises(DataError, match="replace or remove it"):
        decode(value)


def test_transform_of_one_image_and_of_a_batch() -> None:
    transform = ImageTransform(TO_TENSOR, image_column="img", label_column="fine_label")
    image = Image.fromarray(COLORS)
    tensor = transform(image)
    assert tensor.shape == (3, 8, 8)
    batch = transform({"img": [image, image.convert("CMYK")], "fine_label": [1, 0], "id": ["a", "b"]})
    assert batch.keys() == {"pixel_values", "labels"}
    assert batch["labels"] == [1, 0]
    torch.testing.assert_close(batch["pixel_values"][0], tensor)
    assert transform({"img": [image]}).keys() == {"pixel_values"}


def test_transform_to_one_channel() -> None:
    transform = ImageTransform(TO_TENSOR, channels=1)
    assert transform(Image.new("RGBA", (4, 4))).unique().tolist() == [1.0]
    assert transform(Image.new("RGB", (4, 4))).shape == (1, 8, 8)


def test_transform_of_another_column() -> None:
    with pytest.raises(DataError, match=r"'image', found the columns img, id; .*image_column"):
        ImageTransform(TO_TENSOR)({"img": [], "id": []})


def test_transforms_are_renamed_pickled_and_described() -> None:
    transforms = Transforms(ImageTransform(TO_TENSOR), ImageTransform(TO_TENSOR, channels=1))
    renamed = pickle.loads(pickle.dumps(transforms.with_columns("img", "class")))
    assert (renamed.train.image_column, renamed.eval.label_column) == ("img", "class")
    assert renamed.eval.channels == 1
    assert str(renamed.train).startswith("RGB, Resize(size=[8, 8]")
    assert "\n" not in str(renamed.train)
    assert ImageTransform(v2.functional.pil_to_tensor).describe() == f"RGB, {identify(v2.functional.pil_to_tensor)}"


def test_collate() -> None:
    examples = [{"pixel_values": torch.full((3, 2, 2), float(label)), "labels": label} for label in (4, 2)]
    batch = collate(examples)
    assert batch["pixel_values"].shape == (2, 3, 2, 2)
    assert batch["labels"].dtype == torch.long
    assert batch["labels"].tolist() == [4, 2]
    assert collate([{"pixel_values": torch.zeros(3, 2, 2)}]).keys() == {"pixel_values"}
