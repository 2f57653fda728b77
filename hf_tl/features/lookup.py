"""Look up cached features of a coming training, without computing any."""

from collections.abc import Iterable, Mapping

from hf_tl.data.streaming.streams import StreamedImages
from hf_tl.features.feature_pass import FeatureSet, parts_of
from hf_tl.features.feature_store import FeatureStore


def count_cached(store: FeatureStore, sets: Iterable[FeatureSet], frozen: str, orders: Mapping[str, str]) -> int:
    """Count the images whose features are in the cache.

    Precision and boundary are not compared: they follow from the frozen stages and the settings of the machine.

    Args:
        store: Cache.
        sets: Images with their transforms and views.
        frozen: Digest of the frozen tensors.
        orders: Digest of the order of the images in each split: see `ImageData`.
    """
    entries = store.descriptions()
    return sum(
        len(feature_set.images)
        for feature_set in sets
        if any(parts_of(feature_set, _order(feature_set, orders), frozen).items() <= entry.items() for entry in entries)
    )


def _order(feature_set: FeatureSet, orders: Mapping[str, str]) -> str:
    images = feature_set.images
    return images.stream.fingerprint if isinstance(images, StreamedImages) else orders[images._fingerprint]
