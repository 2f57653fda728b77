"""Teacher of a training: a trained classifier for the same classes, which sees the same views of the images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from torch import Tensor

from hf_tl.backbones.stages.modules import inference
from hf_tl.backbones.weights.provenance import UNRECORDED
from hf_tl.distillation.views import SharedView
from hf_tl.errors import ModelError, name_some
from hf_tl.evaluation.holdout.loaded import LoadedClassifier
from hf_tl.evaluation.measure import image_logits
from hf_tl.evaluation.metrics import ProblemType
from hf_tl.processes.precision import FLOAT32, precise
from hf_tl.record import LearnedFrom, TeacherRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_tl.backbones.libraries.preprocessing import Preprocessing


@dataclass(frozen=True)
class Teacher:
    """Trained classifier that teaches its predictions to a model, the student."""

    classifier: LoadedClassifier
    labels: tuple[str, ...]
    """Class names in the order of the student's logits."""
    view: SharedView

    @classmethod
    def of(cls, classifier: LoadedClassifier, labels: Sequence[str], preprocessing: "Preprocessing") -> Self:
        """Return a classifier as the teacher of a student.

        Args:
            classifier: Trained classifier; see `check_teacher`.
            labels: Class names of the student.
            preprocessing: Preprocessing of the student.

        Raises:
            ModelError: They cannot see the same views.
        """
        return cls(classifier, tuple(labels), SharedView.of(preprocessing, classifier.preprocessing))

    def logits(self, pixel_values: Tensor) -> Tensor:
        """Compute the teacher's logits for inputs of the student, in float32.

        Args:
            pixel_values: Views of the images, as the student sees them (images, channels, height, width).

        Returns:
            Logits (images, classes), in the order of the student's classes.
        """
        model, device = self.classifier.model, pixel_values.device
        if next(model.parameters()).device != device:
            model.to(device)
        with inference(model), precise(FLOAT32, device):
            logits = image_logits(model, {"pixel_values": self.view(pixel_values.float())}).float()
        if self.classifier.labels == self.labels:
            return logits.clone()  # tensors of inference mode cannot be used in a loss
        return logits[:, [self.classifier.labels.index(label) for label in self.labels]].clone()

    def to_record(self) -> TeacherRecord:
        """Describe the teacher without its path."""
        classifier, origin = self.classifier, self.classifier.provenance.origin
        config = classifier.model.config
        return TeacherRecord(
            name=classifier.name,
            revision=origin.revision,
            weights_digest=classifier.weights_digest,
            architecture=config.architecture if config.model_type == "timm_wrapper" else config.model_type,
            input_size=classifier.preprocessing.input_size,
            license=origin.base_license,
        )

    def identity(self) -> str:
        """Return the digest of the weights, which a resumed run must share."""
        return self.classifier.weights_digest

    def describe(self) -> str:
        """Describe the teacher, and what it sees, for the log."""
        record, (_, height, width) = self.to_record(), self.classifier.preprocessing.input_size
        revision = "" if record.revision is None else f", revision {record.revision:.12}"
        return (
            f"{record.name} ({record.architecture}{revision}) teaches its predictions on the views that the model "
            f"sees, at {height} × {width} pixels"
        )


def check_teacher(
    classifier: LoadedClassifier,
    labels: Sequence[str],
    problem: ProblemType | None = None,
    student: "PreTrainedModel | None" = None,
) -> None:
    """Check that a teacher has the classes of a student, in any order.

    Args:
        classifier: Teacher.
        labels: Class names of the student.
        problem: Problem type of the student. None if it is not known yet.
        student: Model to train. None if it is not loaded yet.

    Raises:
        ModelError: It has other classes or another problem type, or its class names are not unique; or it is the
            student.
    """
    if classifier.model is student:
        raise ModelError("expected a teacher beside the model to train, found the same model: load it again for one")
    if problem is not None and classifier.problem is not problem:
        raise ModelError(
            f"expected a teacher for {problem.name}, found {classifier.problem.name} ({classifier.name}): choose "
            "another --teacher"
        )
    if len(set(classifier.labels)) < len(classifier.labels):
        raise ModelError(
            f"expected unique class names of the teacher, found duplicates in {classifier.name}: rename them in its "
            "config.json (id2label)"
        )
    own, others = set(classifier.labels), set(labels)
    differences = [
        f"only the {who} has {name_some(sorted(names))}"
        for who, names in (("teacher", own - others), ("dataset", others - own))
        if names
    ]
    if differences:
        raise ModelError(
            f"expected a teacher with the classes of the dataset, found {'; '.join(differences)}: choose another "
            "--teacher"
        )


def learned_by_teacher(classifier: LoadedClassifier) -> LearnedFrom:
    """Return the training images of a teacher; they are unknown for a classifier that hf_tl did not train."""
    learned = classifier.learned
    return learned if learned.splits or classifier.provenance.origin.is_random else UNRECORDED
