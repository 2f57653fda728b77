"""Image processors by the library that resizes, whose classes transformers renamed."""

import transformers


def pil(name: str) -> str:
    """Return the name of the class that resizes with Pillow; before `...Pil`, that was the name itself."""
    return f"{name}Pil" if hasattr(transformers, f"{name}Pil") else name


def tv(name: str) -> str:
    """Return the name of the class that resizes with torchvision, which was `...Fast`."""
    return name if hasattr(transformers, f"{name}Pil") else f"{name}Fast"
