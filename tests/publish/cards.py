"""Rendered cards for tests."""

from huggingface_hub import ModelCard


def body_of(card: str) -> str:
    return ModelCard(card).text
