"""License names of the Hub's metadata (https://huggingface.co/docs/hub/repositories-licenses)."""

from typing import Any

HUB_LICENSES = frozenset(
    (
        "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigcode-openrail-m", "bigscience-bloom-rail-1.0",
        "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc",
        "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
        "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
        "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0",
        "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
        "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2",
        "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "openrail", "openrail++",
        "osl-3.0", "other", "pddl", "postgresql", "unknown", "unlicense", "wtfpl", "zlib",
    )
)  # fmt: skip


def hub_license(name: str | None, base_model: str | None = None) -> dict[str, Any]:
    """Return the metadata of a license: its identifier, or `other` with its name; nothing for free text.

    The Hub refuses cards with unknown identifiers, which some base models have (timm's `dinov3-license`).

    Args:
        name: Name of the license.
        base_model: Hub id of the model that states it, whose page is linked where the Hub does not know the license.

    >>> hub_license("mit"), hub_license("dinov3-license"), hub_license("see LICENSE")
    ({'license': 'mit'}, {'license': 'other', 'license_name': 'dinov3-license'}, {})
    """
    if not name:
        return {}
    if name in HUB_LICENSES:
        return {"license": name}
    is_identifier = name.isascii() and name == name.lower() and name.replace("-", "").replace(".", "").isalnum()
    if not is_identifier:
        return {}
    link = {} if base_model is None else {"license_link": f"https://huggingface.co/{base_model}"}
    return {"license": "other", "license_name": name, **link}
