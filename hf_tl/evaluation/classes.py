"""Labels of a dataset as class indices of a model, matched by name."""

from typing import TYPE_CHECKING

from datasets import Dataset

from hf_tl.data.columns import LABEL, holds_lists
from hf_tl.data.image_data import ImageData
from hf_tl.data.labels import encode_labels
from hf_tl.data.multi_label import match_classes
from hf_tl.errors import DataError, name_some
from hf_tl.evaluation.metrics import problem_type_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def images_for(model: "PreTrainedModel", data: ImageData, split: str) -> Dataset:
    """Return a split of a dataset with its labels encoded by the model's classes, which are matched by name.

    Raises:
        DataError: The dataset has classes that the model does not know, or another problem type.
    """
    if (kind := problem_type_of(model).name) != data.problem_type:
        raise DataError(
            f"the model is for {kind}, and the labels of the dataset are for {data.problem_type}; "
            "name others with --label_column"
        )
    known = model.config.label2id
    if unknown := [label for label in data.labels if label not in known]:
        raise DataError(f"the model knows no class {name_some(unknown)}; it knows {name_some(known)}")
    names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    images = data.splits[split]
    if holds_lists(images.features[LABEL]):
        return match_classes(images, data.labels, names)
    return encode_labels({split: images}, names)[split]
