"""Tiny two-tower checkpoints with a tokenizer, trained for seconds to match images with the names of their colors."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from hf_tl.backbones.text.embedding import pooled

COLORS = {
    "dark_red": (140, 30, 30), "green": (40, 160, 40), "blue": (40, 40, 170), "yellow": (190, 180, 30),
    "violet": (150, 40, 170),
}  # fmt: skip
"""Class names of the images, and their mean color."""
PROMPT = "a photo of {}"
WORDS = ("a", "photo", "of", "picture", "dark", "red", "green", "blue", "yellow", "violet", "the", "bad", "large")
LENGTH, SIZE = 10, 32
SIZES = {"hidden_size": 32, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 2}
PIXELS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], "resample": 3}


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words, with the special tokens of CLIP."""
    special = ["<pad>", "<unk>", "<start>", "<end>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokens = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokens.pre_tokenizer = Whitespace()
    tokens.post_processor = TemplateProcessing(single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<start>", "eos_token": "<end>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokens, **names)


def make_towers(family: str, **vision: Any) -> PreTrainedModel:
    """Return a `clip` or `siglip` model with random weights."""
    torch.manual_seed(0)
    text = {**SIZES, "vocab_size": 4 + len(WORDS), "max_position_embeddings": LENGTH}
    text |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    images = {**SIZES, "image_size": SIZE, "patch_size": 8, **vision}
    if family == "clip":
        width = {"projection_dim": 24}
        return CLIPModel(CLIPConfig(text_config=text | width, vision_config=images | width, **width))
    return SiglipModel(SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=images))


def colored(images: int, seed: int = 0, spread: float = 40) -> Dataset:
    """Return noisy images in the color of their class."""
    random = np.random.default_rng(seed)
    means = np.array(list(COLORS.values()))
    labels = [number % len(COLORS) for number in range(images)]
    shifts = random.normal(0, spread, (images, 1, 1, 3))
    pixels = means[labels][:, None, None] + shifts + random.normal(0, 20, (images, 40, 48, 3))
    features = Features(image=Image(), label=ClassLabel(names=list(COLORS)))
    return Dataset.from_dict({"image": list(pixels.clip(0, 255).astype(np.uint8)), "label": labels}, features=features)


def write_folder(dataset: Dataset, folder: Path) -> Path:
    """Write a dataset as one folder of PNG files for each class."""
    for number, row in enumerate(dataset):
        place = folder / list(COLORS)[row["label"]]
        place.mkdir(parents=True, exist_ok=True)
        row["image"].save(place / f"{number:03d}.png")
    return folder


def image_processor(family: str) -> Any:
    if family == "clip":
        square = {"height": SIZE, "width": SIZE}
        return CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=square, **PIXELS)
    return SiglipImageProcessor(size={"height": SIZE, "width": SIZE}, **PIXELS)


def tokens(texts: list[str]) -> dict[str, Tensor]:
    return dict(tokenizer()(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"))


def pixels_of(images: list[Pillow.Image], family: str) -> Tensor:
    return image_processor(family)(images, return_tensors="pt")["pixel_values"]


def zero_shot_logits(towers: PreTrainedModel, pixel_values: Tensor, prompt: str = PROMPT) -> Tensor:
    """Return the logits of the model itself for the class names, (images, classes)."""
    texts = [prompt.format(name.replace("_", " ")) for name in COLORS]
    with torch.inference_mode():
        return towers(pixel_values=pixel_values, **tokens(texts)).logits_per_image


def train_towers(towers: PreTrainedModel, family: str, steps: int) -> None:
    """Train both towers to match images of a color with a text that names it."""
    rows = colored(100, seed=7)
    pixels, labels = pixels_of(list(rows["image"]), family), torch.tensor(rows["label"])
    texts = tokens([PROMPT.format(name.replace("_", " ")) for name in COLORS])
    optimizer = torch.optim.AdamW(towers.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = torch.randperm(len(labels), generator=generator)[:32]
        images = functional.normalize(pooled(towers.get_image_features(pixels[batch])), dim=-1)
        names = functional.normalize(pooled(towers.get_text_features(**texts)), dim=-1)
        loss = functional.cross_entropy(10 * images @ names.T, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@functools.cache
def trained_weights(family: str, steps: int = 40) -> dict[str, Tensor]:
    towers = make_towers(family)
    train_towers(towers, family, steps)
    return {name: tensor.clone() for name, tensor in towers.state_dict().items()}


def trained_towers(family: str) -> PreTrainedModel:
    """Return towers whose zero-shot accuracy is above chance, and below what a trained head reaches."""
    towers = make_towers(family)
    towers.load_state_dict(trained_weights(family))
    return towers.eval()


def write_towers(folder: Path, family: str = "clip", towers: PreTrainedModel | None = None) -> Path:
    """Write a checkpoint with tokenizer and image processor, as on the Hub."""
    (towers or trained_towers(family)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    image_processor(family).save_pretrained(folder)
    return folder
