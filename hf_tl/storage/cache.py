"""Place of what hf_tl keeps between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder: `$HF_TL_CACHE`, else `hf_tl/features` in the cache of Hugging Face."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("HF_TL_CACHE") or Path(HF_HOME, "hf_tl", "features")).expanduser()
