"""Digest of named tensors, also of tensors that are sharded over processes."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of named tensors: names, dtypes, shapes and every byte.

    >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)}) != digest({"a": torch.ones(2)})
    True
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = whole(tensors[name].detach())
        sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        # uint8, because numpy has no bfloat16
        sha.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def whole(tensor: Any) -> Tensor:
    """Gather a tensor that is sharded over processes (a collective call); return other tensors unchanged."""
    return tensor.full_tensor() if is_part(tensor) else tensor


def is_part(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor, without importing that class (almost a second in every run)."""
    return hasattr(tensor, "full_tensor")
