"""Licenses of pretrained weights, announced before the weights are downloaded."""

from hf_tl.reporting.console import say

PERMISSIVE = frozenset(("apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "mit"))
"""Licenses that ask for attribution at most."""


def announce_license(license_name: str | None, name: str) -> None:
    """Log the license of weights if its terms go beyond attribution.

    Args:
        license_name: License as the source of the weights states it; nothing is logged where it states none.
        name: Hub id of the weights.
    """
    if license_name is not None and license_name not in PERMISSIVE:
        say(
            None,
            f"Loading weights under the license {license_name}: read its terms before you use or publish them "
            f"(https://huggingface.co/{name})",
        )
