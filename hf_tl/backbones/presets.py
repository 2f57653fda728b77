"""Presets: lists of candidate backbones for a parameter budget, or of a kind of pretraining.

Each backbone has a strong ImageNet result for its size (https://github.com/huggingface/pytorch-image-models, results).
Each list of a budget covers several kinds: mobile, residual and modern convolutional networks, and transformers, all
trained with labels, under the Apache or the MIT license. The lists of a kind of pretraining learned without class
labels; `hf-tl presets` shows how, and under which license.
"""

from hf_tl.backbones.weights.pretraining import authors_pretraining, timm_pretraining

PRESETS = {
    "mobile": (
        "timm/mobilenetv4_conv_small.e2400_r224_in1k",
        "timm/mobilenetv3_large_100.ra_in1k",
        "timm/tf_efficientnet_lite0.in1k",
        "timm/efficientnet_b0.ra_in1k",
    ),
    "small": (
        "timm/resnet50.a1_in1k",
        "timm/convnext_tiny.in12k_ft_in1k",
        "timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
        "timm/swin_tiny_patch4_window7_224.ms_in1k",
    ),
    "base": (
        "timm/resnet152.a1_in1k",
        "timm/convnext_base.fb_in22k_ft_in1k",
        "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
        "timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k",
    ),
    "self_supervised": (
        "facebook/dinov2-small",
        "timm/vit_small_patch16_dinov3.lvd1689m",
        "timm/convnext_tiny.dinov3_lvd1689m",
        "timm/vit_base_patch16_224.mae",
    ),
    "image_text": (
        "timm/vit_medium_patch16_clip_224.tinyclip_yfcc15m",
        "timm/vit_base_patch16_clip_224.openai",
        "timm/vit_base_patch16_siglip_224.v2_webli",
        "timm/convnext_base.clip_laion2b",
    ),
}
"""Presets that `--model` accepts besides names. `scripts/benchmark_presets.py` measures the speed of those for a
budget; `scripts/README.md` has a table of it. DINOv2 is that of transformers, whose class joins the class token and the
mean of the patches as its authors do, and whose processor gives 224 instead of 518 pixels."""
LIMITS = {"mobile": 6e6, "small": 30e6, "base": 100e6, "self_supervised": 100e6, "image_text": 100e6}
"""Maximum number of parameters in each preset."""
BUDGETS = ("mobile", "small", "base")
"""Presets for a parameter budget."""
_FOR_TRANSFORMERS = {"facebook/dinov2-small": ("dinov2", "apache-2.0")}
"""`model_type` and license of the backbones that are not timm's, as their pages on the Hub state them."""


def describe_presets() -> str:
    """Return a table of the backbones of all presets, with their pretraining and license; nothing is downloaded."""
    rows = [("backbone", "pretraining", "license")]
    titles: dict[int, str] = {}
    for preset, names in PRESETS.items():
        titles[len(rows)] = f"{preset} (up to {LIMITS[preset] / 1e6:.0f} million parameters)"
        rows += [(name, *_stated(name)) for name in names]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = []
    for number, (name, pretraining, license_name) in enumerate(rows):
        lines += ["", titles[number]] if number in titles else []
        lines.append(f"  {name:<{widths[0]}}  {pretraining:<{widths[1]}}  {license_name}")
    return "\n".join(lines)


def _stated(name: str) -> tuple[str, str]:
    """Return the pretraining and the license of a backbone of a preset."""
    if name in _FOR_TRANSFORMERS:
        model_type, license_name = _FOR_TRANSFORMERS[name]
        return authors_pretraining(name, model_type, has_classifier=False) or "unknown", license_name
    import timm

    weights = name.removeprefix("timm/")
    settings = timm.get_pretrained_cfg(weights)
    return timm_pretraining(weights) or "unknown", settings.license or "not stated"
