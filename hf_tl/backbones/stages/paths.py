"""Paths of modules and tensors in a model, as in `named_modules()` and `named_parameters()`."""

from collections.abc import Iterable, Iterator


def parent_of(path: str) -> str:
    """Return the path of the module that contains a module or tensor.

    >>> parent_of("layer4.0.conv1"), parent_of("fc")
    ('layer4.0', '')
    """
    return path.rpartition(".")[0]


def lineage(path: str) -> Iterator[str]:
    """Yield a path and its parents, nearest first, ending with the root (an empty path)."""
    while path:
        yield path
        path = parent_of(path)
    yield path


def outermost(paths: Iterable[str]) -> list[str]:
    """Leave out the paths that lie inside another of them.

    >>> outermost(["layer1", "layer1.0", "layer1.0.conv1", "layer10", "layer2.0"])
    ['layer1', 'layer10', 'layer2.0']
    """
    known = dict.fromkeys(paths)
    return [path for path in known if known.keys().isdisjoint([*lineage(path)][1:])]


def split_number(path: str) -> tuple[str, str]:
    """Split a path into its prefix and its number.

    >>> split_number("features.10")
    ('features.', '10')
    """
    family = path.rstrip("0123456789")
    return family, path[len(family) :]


def span(first: str, last: str) -> str:
    """Name the range from one module to another.

    >>> span("blocks.3", "blocks.4"), span("features.transition1", "features.denseblock2")
    ('blocks.3-4', 'features.transition1-denseblock2')
    """
    if first == last:
        return first
    family, number = split_number(last)
    if split_number(first)[0] == family:
        return f"{first}-{number}"
    common = next(parent for parent in lineage(parent_of(first)) if not parent or last.startswith(f"{parent}."))
    return f"{first}-{last[len(common) :].lstrip('.')}"
