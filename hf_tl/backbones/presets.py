"""Presets: lists of candidate backbones for a parameter budget.

Each backbone has a strong ImageNet result for its size (https://github.com/huggingface/pytorch-image-models, results).
Each list covers several kinds: mobile, residual and modern convolutional networks, and transformers, whose pretraining
differs. All are under the Apache or the MIT license.
"""

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
}
"""Presets that `--model` accepts besides names: up to 6, 30 and 100 million parameters. `scripts/benchmark_presets.py`
measures their speed; the README has a table of it."""
LIMITS = {"mobile": 6e6, "small": 30e6, "base": 100e6}
"""Maximum number of parameters in each preset."""
