"""Views of the student as inputs of the teacher: the same pixels, normalized for it and resized to its input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from torch import Tensor
from torch.nn import functional

from hf_tl.data.decoding.scaling import PixelScaling
from hf_tl.errors import ModelError

if TYPE_CHECKING:
    from hf_tl.backbones.libraries.preprocessing import Preprocessing


@dataclass(frozen=True)
class SharedView:
    """Conversion of the inputs of one network into those of another, for the same view of each image.

    Both normalizations are linear maps of the channels. So augmented, mixed and erased images are converted exactly, up
    to float32 rounding.

    >>> import torch
    >>> student, teacher = (PixelScaling((0, 1, 2), (mean,) * 3, (0.5,) * 3) for mean in (0.0, 0.5))
    >>> SharedView(student, teacher, (1, 1))(torch.ones(1, 3, 1, 1)).flatten().tolist()
    [0.0, 0.0, 0.0]
    """

    student: PixelScaling
    teacher: PixelScaling
    size: tuple[int, int]
    """Height and width of the teacher's input."""

    @classmethod
    def of(cls, student: "Preprocessing", teacher: "Preprocessing") -> Self:
        """Return the conversion between two preprocessings.

        Raises:
            ModelError: One of them does not map each channel linearly, or their channels differ.
        """
        for name, preprocessing in (("model", student), ("teacher", teacher)):
            if preprocessing.scaling is None:
                raise ModelError(
                    f"expected a preprocessing that maps each channel linearly, found another one of the {name}, so "
                    "both cannot see the same views: choose another model or --teacher"
                )
        assert student.scaling is not None
        assert teacher.scaling is not None
        channels = student.input_size[0], teacher.input_size[0]
        if channels[0] != channels[1]:
            raise ModelError(
                f"expected a teacher with {channels[0]} input channels, as the model has, found {channels[1]}: choose "
                "another --teacher, or set --in_chans"
            )
        return cls(student.scaling, teacher.scaling, teacher.input_size[1:])

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Convert a batch (images, channels, height, width)."""
        if self.student != self.teacher:
            pixel_values = self._normalized(pixel_values)
        if tuple(pixel_values.shape[-2:]) == self.size:
            return pixel_values
        return functional.interpolate(pixel_values, self.size, mode="bilinear", antialias=True, align_corners=False)

    def _normalized(self, pixel_values: Tensor) -> Tensor:
        """Replace the student's normalization and order of the channels by those of the teacher."""
        own = [self.student.order.index(channel) for channel in self.teacher.order]

        def of_channels(values: Sequence[float]) -> Tensor:
            return pixel_values.new_tensor(values).view(-1, 1, 1)

        levels = pixel_values[:, own] * of_channels(self.student.std)[own] + of_channels(self.student.mean)[own]
        return (levels - of_channels(self.teacher.mean)) / of_channels(self.teacher.std)
