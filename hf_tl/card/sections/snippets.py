"""Code in a card's snippets that reads an image into the same pixels as the evaluation."""

from collections.abc import Collection

from markupsafe import Markup

IMPORT_NUMPY = "import numpy as np\n"
PLAIN = 'ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")'
CONVERTED = 'to_rgb(Image.open("image.jpg"))'
TURN = """\
    image = ImageOps.exif_transpose(image)
"""
TURN_IF_READABLE = """\
    try:
        orientation = image.getexif().get(274)
    except Exception:
        orientation = None  # unreadable EXIF data
    if orientation in range(2, 9):
        image = image.transpose((0, 3, 1, 5, 4, 6, 2)[orientation - 2])
"""
END = """\
    return image.convert("RGB")
"""
WITHOUT_EXIF = """\
    image = image.convert("RGB")
    image.info = {}  # so that the EXIF data are not applied again
    return image
"""
STEPS = {
    "deep gray": """\
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0, posinf=0, neginf=0)
        low, high = values.min(), values.max()
        scales = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, (65535,))
        scale = next((scale for scale in scales if low >= 0 and high <= scale), None)
        if scale is None:
            values, scale = values - low, max(high - low, 1e-30)
        return Image.fromarray(np.rint(values * (255 / scale)).astype(np.uint8)).convert("RGB")
""",
    "transparency": """\
    if image.has_transparency_data:
        image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
""",
}
"""Steps of `hf_tl.data.decoding.colors.to_rgb`, by kind of conversion."""


def reading_code(conversions: Collection[str], channels: int) -> dict[str, Markup]:
    """Return the code that reads `image.jpg`.

    Args:
        conversions: Kinds of conversion that images of the run needed, as counted by `hf_tl.data.decoding.conversions`.
        channels: Number of channels of the model's input.

    Returns:
        `numpy`: import of NumPy, or nothing; `pillow`: names imported from PIL; `function`: definition of `to_rgb`, or
            an empty line; `rgb`: expression of the RGB image; `image`: the same with the model's channels.
    """
    turn = TURN_IF_READABLE if "unreadable EXIF" in conversions else TURN
    body = turn + "".join(step for kind, step in STEPS.items() if kind in conversions)
    end = WITHOUT_EXIF if "unreadable EXIF" in conversions else END
    function = f"\n\ndef to_rgb(image):\n{body}{end}\n\n"
    rgb = CONVERTED if conversions else PLAIN
    used = body if conversions else PLAIN
    texts = {
        "numpy": IMPORT_NUMPY if conversions and "np." in body else "",
        "pillow": ", ".join(name for name in ("Image", "ImageOps") if name == "Image" or name in used),
        "function": function if conversions else "\n",
        "rgb": rgb,
        "image": rgb + ('.convert("L")' if channels == 1 else ""),
    }
    return {name: Markup(text) for name, text in texts.items()}
