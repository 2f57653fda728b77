"""One small model with random weights of every kind: each class of each timm module, each class of transformers."""

from typing import Any

import torch
import transformers
from backbones.processor_classes import tv
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from hf_tl.backbones.libraries.class_names import set_class_names
from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.backbones.libraries.processors import processor_preprocessing
from hf_tl.backbones.libraries.timm import create_timm_backbone, timm_preprocessing

LABELS = ("zebra", "ant", "moth")
SIZE = 64

TINY = {"depth": 2, "embed_dim": 64, "num_heads": 4}
NAMES = (
    "alexnet", "beit_base_patch16_224", "cait_xxs24_224", "coat_tiny", "convit_tiny", "convmixer_768_32",
    "cpubone_nano", "crossvit_tiny_240", "cs3darknet_focus_s", "csatv2", "cspnext_tiny", "davit_tiny",
    "deepseek_vit_412m", "deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224", "densenet121", "dla46x_c",
    "dpn48b", "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "efficientvim_m1",
    "efficientvim_m1_dist", "efficientvit_b0", "efficientvit_l1", "efficientvit_m0", "ese_vovnet19b_slim_dw",
    "fasternet_t0", "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "gemma4_vit_167m", "ghostnet_050",
    "gmlp_ti16_224", "googlenet", "halonet_h1", "hardcorenas_b", "hgnetv2_b0", "hiera_tiny_224",
    "hrnet_w18_small", "iformer_t", "inception_next_atto", "inception_resnet_v2", "inception_v3", "inception_v4",
    "lcnet_035", "lcnetv2_small", "legacy_seresnet18", "legacy_xception", "levit_128s", "levit_256d",
    "lowformer_b0", "mobilenetv5_base", "mobilevit_xxs", "mvitv2_tiny", "naflexvit_base_patch16_parfac_gap",
    "nasnetalarge", "nest_tiny", "nextvit_small", "pit_ti_224", "pnasnet5large", "poolformerv2_s12", "pvt_v2_b0",
    "qwen3_vit_88m", "rdnet_tiny", "regnetx_002", "repghostnet_050", "repvit_m1", "res2next50", "resnest14d",
    "resnetv2_18", "rexnet_100", "sam2_hiera_tiny", "samvit_base_patch16_224", "selecsls42", "sequencer2d_s",
    "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs", "swin_tiny_patch4_window7_224",
    "swinv2_cr_tiny_224", "swinv2_tiny_window16_256", "test_byobnet", "test_coatnet", "test_convnext",
    "test_efficientnet", "test_mambaout", "test_nfnet", "test_resnet", "test_vit", "test_vit_relpos",
    "tiny_vit_5m_224", "tnt_s_legacy_patch16_224", "tresnet_m", "twins_svt_small", "vgg11", "visformer_tiny",
    "vit_tiny_patch16_dinov3_qkvb", "vit_tiny_r_s16_p8_224", "vitamin_small_224", "volo_d1_224", "xception41p",
    "xcit_nano_12_p8_224", "zfnet",
)  # fmt: skip
"""Smallest timm architecture of each module and class."""
OF_TODAY = (
    "convnext_tiny", "vit_base_patch16_224", "vit_base_patch16_clip_224", "vit_base_patch16_siglip_224",
    "vit_base_patch16_siglip_gap_224", "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
)  # fmt: skip
"""Architectures of self-supervised and image-text weights: of DINOv3, MAE, CLIP, SigLIP (attention pooling and mean),
and DINOv2 (without and with registers)."""
TIMM: dict[str, dict[str, Any]] = (
    {name: {} for name in NAMES}
    | dict.fromkeys(OF_TODAY, TINY)
    | {
        "beit_base_patch16_224": TINY,
        "convnext_tiny": {"depths": (1, 1, 2, 1), "dims": (8, 16, 32, 64)},
        "deepseek_vit_412m": TINY,
        "efficientvit_l1": {"depths": (1, 1, 1, 1), "widths": (8, 16, 32, 64)},
        "gemma4_vit_167m": {**TINY, "head_dim": 16, "position_embedding_size": 64},
        "mobilenetv5_base": {"channel_multiplier": 0.25},
        "naflexvit_base_patch16_parfac_gap": TINY,
        "qwen3_vit_88m": TINY,
        "samvit_base_patch16_224": TINY,
        "vgg11": {"mlp_ratio": 0.02},
    }
)
"""Arguments that reduce the size further, by architecture."""
TIMM_SIZES = {
    "crossvit_tiny_240": 240,
    "deepseek_vit_412m": 112,
    "efficientformer_l1": 224,
    "efficientvim_m1": 128,
    "efficientvim_m1_dist": 128,
    "efficientvit_m0": 128,
    "halonet_h1": 256,
    "inception_resnet_v2": 96,
    "inception_v3": 96,
    "inception_v4": 96,
    "levit_128s": 128,
    "levit_256d": 128,
    "vit_small_patch14_dinov2": 56,
    "vit_small_patch14_reg4_dinov2": 56,
}
"""Input sizes where 64 pixels are too small or no multiple of the patch size, or are reduced to one pixel, which leaves
attention no choice."""

CLASSES = tuple(
    name
    for names in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values()
    for name in ([names] if isinstance(names, str) else names)
    if name != "TimmWrapperForImageClassification"
)
REFUSED = {
    "DinatForImageClassification": "requires .*natten",
    "ShieldGemma2ForImageClassification": "by the tokens of a language model, and has no head to train",
}
NOT_LOADED = {
    "ImageGPTForImageClassification": "found ImageGPTImageProcessor(Fast)?, which gives input_ids; ",
    "PPLCNetForImageClassification": "returns last_hidden_state and no logits",
    "Siglip2ForImageClassification": "Siglip2ImageProcessor(Fast)?, which gives pixel_values, pixel_attention_mask",
}
"""Classifiers that can be frozen and saved, but need more inputs than images or return no logits."""
NOT_LOADED = {name: message for name, message in NOT_LOADED.items() if hasattr(transformers, name)}
VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
SHALLOW = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
PYRAMID = {**SHALLOW, "num_attention_heads": [1, 2, 2, 4]}
WINDOWS = {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 2}
PERCEIVER = {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 3, "num_cross_attention_heads": 1}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "BeitForImageClassification": {**VIT, "intermediate_size": 48},
    "BitForImageClassification": {"embedding_size": 16, "num_groups": 4, **SHALLOW},
    "CLIPForImageClassification": {"vision_config": {**VIT, "intermediate_size": 48}},
    "ConvNextForImageClassification": SHALLOW,
    "ConvNextV2ForImageClassification": SHALLOW,
    "CvtForImageClassification": {"embed_dim": [16, 24, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
    "Data2VecVisionForImageClassification": {**VIT, "intermediate_size": 48},
    "DeiTForImageClassification": {**VIT, "intermediate_size": 48},
    "DeiTForImageClassificationWithTeacher": {**VIT, "intermediate_size": 48},
    "Dinov2ForImageClassification": VIT,
    "Dinov2WithRegistersForImageClassification": VIT,
    "DonutSwinForImageClassification": WINDOWS,
    "EfficientNetForImageClassification": {"width_coefficient": 0.5, "depth_coefficient": 1.0, "hidden_dim": 640},
    "FocalNetForImageClassification": {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1]},
    "HGNetV2ForImageClassification": {},
    "HieraForImageClassification": {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 2, 1]},
    "IJepaForImageClassification": {**VIT, "intermediate_size": 48},
    "ImageGPTForImageClassification": {"n_embd": 32, "n_layer": 3, "n_head": 2},
    "LevitForImageClassification": {"image_size": 128},
    "LevitForImageClassificationWithTeacher": {"image_size": 128},
    "MetaClip2ForImageClassification": {"vision_config": {**VIT, "intermediate_size": 48}},
    "MobileNetV1ForImageClassification": {"depth_multiplier": 0.25, "classifier_dropout_prob": 0.1},
    "MobileNetV2ForImageClassification": {"depth_multiplier": 0.35},
    "MobileViTForImageClassification": {"image_size": 128},
    "MobileViTV2ForImageClassification": {"image_size": 64, "width_multiplier": 0.5},
    "PPLCNetForImageClassification": {"scale": 0.5},
    "PerceiverForImageClassificationConvProcessing": PERCEIVER,
    "PerceiverForImageClassificationFourier": PERCEIVER,
    "PerceiverForImageClassificationLearned": {**PERCEIVER, "image_size": 64},
    "PoolFormerForImageClassification": SHALLOW,
    "PvtForImageClassification": {"image_size": 64, **PYRAMID},
    "PvtV2ForImageClassification": {"image_size": 64, **PYRAMID},
    "RegNetForImageClassification": {**SHALLOW, "groups_width": 8},
    "ResNetForImageClassification": {"embedding_size": 16, **SHALLOW},
    "SegformerForImageClassification": PYRAMID,
    "Siglip2ForImageClassification": {
        "vision_config": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    },
    "SiglipForImageClassification": {"vision_config": {**VIT, "intermediate_size": 48}},
    "SwiftFormerForImageClassification": {"embed_dims": [16, 24, 32, 40], "depths": [1, 1, 1, 1]},
    "SwinForImageClassification": WINDOWS,
    "Swinv2ForImageClassification": WINDOWS,
    "TextNetForImageClassification": {},
    "ViTForImageClassification": {**VIT, "intermediate_size": 48},
    "ViTMSNForImageClassification": {**VIT, "intermediate_size": 48},
}
"""Small config, by transformers class."""
TRANSFORMERS = {name: config for name, config in TRANSFORMERS.items() if hasattr(transformers, name)}


def build_timm(architecture: str, size: int | None = None) -> tuple[PreTrainedModel, Preprocessing]:
    """Build an architecture of `TIMM` as a transformers model."""
    model, _ = create_timm_backbone(
        architecture,
        LABELS,
        pretrained=False,
        model_args=TIMM[architecture],
        image_size=size or TIMM_SIZES.get(architecture, SIZE),
    )
    set_class_names(model.config, LABELS)
    preprocessing = timm_preprocessing(model.config)
    with torch.no_grad():
        shake(model)(**batch(model, preprocessing))  # the loader runs every model once; ConViT then fills a table
    return model, preprocessing


def build_transformers(name: str) -> tuple[PreTrainedModel, Preprocessing]:
    """Build a class of `TRANSFORMERS`, with an image processor for its size."""
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**TRANSFORMERS[name], num_labels=len(LABELS)))
    set_class_names(model.config, LABELS)
    size = 128 if TRANSFORMERS[name].get("image_size") == 128 else SIZE
    processor = getattr(transformers, tv("ViTImageProcessor"))(size={"height": size, "width": size})
    return shake(model), processor_preprocessing(processor)


def processor_for(name: str) -> Any:
    """Build the image processor of a class of `NOT_LOADED`."""
    if name == "Siglip2ForImageClassification":
        return transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=16)
    if name == "ImageGPTForImageClassification":
        clusters = torch.linspace(-1, 1, 512)[:, None].repeat(1, 3).tolist()
        return transformers.ImageGPTImageProcessor(clusters=clusters, size={"height": 8, "width": 8})
    return transformers.ViTImageProcessor(size={"height": SIZE, "width": SIZE})


def shake(model: PreTrainedModel) -> PreTrainedModel:
    """Change every parameter a little: initial gains of zero block gradients."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def batch(model: PreTrainedModel, preprocessing: Preprocessing, count: int = 4) -> dict[str, torch.Tensor]:
    """Draw inputs of `model`: noise of the size of its images, or of their patches or colors."""
    generator = torch.Generator().manual_seed(1)
    name = type(model).__name__
    if name == "ImageGPTForImageClassification":
        return {"input_ids": torch.randint(0, 512, (count, 64), generator=generator)}
    if name == "Siglip2ForImageClassification":
        pixels = torch.randn(count, 16, 3 * 16**2, generator=generator)
        mask = torch.ones(count, 16, dtype=torch.long)
        return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": torch.tensor([[4, 4]] * count)}
    return {"pixel_values": torch.randn(count, *preprocessing.input_size, generator=generator)}
