"""Web page of a model: shows the most probable classes of an image with their activation maps.

Values from elsewhere (labels, dataset names, notes) appear on the page as plain text: gradio's labels and captions are
text, and the section about the training escapes its values.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from gradio.utils import get_upload_folder
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from markupsafe import Markup, escape
from PIL import Image

from hf_tl.abstention.detector import FILE, Detector
from hf_tl.demo.demo_exported import ExportedDemoModel, read_exported_record
from hf_tl.demo.demo_model import DemoModel
from hf_tl.demo.demo_story import tell_story, title_of
from hf_tl.demo.uploads import read_image
from hf_tl.errors import DataError
from hf_tl.evaluation.metrics import MULTI_LABEL, ProblemType
from hf_tl.record import RECORD_FILE, RunRecord, read_record_file
from hf_tl.reporting.plain import one_line
from hf_tl.runtime.exported import exported_file

BARS = 5
IN_A_ROW = {"height": 360, "min_width": 300}
KEPT = 3_600
"""Seconds until an uploaded image is deleted from the disk."""
MAP, MAP_OF, NO_MAP_OF = "Activation map", "Activation map for “{}”", "No region of the image supports “{}”"
SINGLE, MULTIPLE = (
    "An image classification model for {:,} classes.",
    "An image classification model for {:,} labels, any number of them per image.",
)
UNLIKE = "Not like the images it was trained on"
HINT = "Click a class to see its activation map, over the part of the image that the model sees."
HEADER = Markup('<header class="hf-tl"><h1>{}</h1><p>{}</p></header>')
NOTE = Markup('<p class="hf-tl note">{}</p>')
STAGES_FIGURE = "stages.png"
THEME = gr.themes.Default(
    primary_hue="orange", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
)
"""Theme with system fonts: nothing is fetched from other servers."""
Upload = Mapping[str, Any]
"""Description of an uploaded file that gradio does not read itself."""


class PageModel(Protocol):
    """Model as a page needs it."""

    problem: ProblemType
    labels: list[str]

    def rank(self, image: Image.Image) -> list[tuple[int, float]]:
        """Return the index and the probability of each class, the most probable first."""

    def abstains(self, image: Image.Image) -> bool:
        """Return whether an image is unlike the training images, as far as the model knows."""

    def look(self, image: Image.Image, index: int) -> Image.Image | None:
        """Draw the activation map of a class over the input image; None where no region supports the class."""

    def why_it_cannot_look(self) -> str | None:
        """Return the reason why the model has no activation maps; None where it has them."""


class Page:
    """Event handlers of a page."""

    def __init__(self, model: PageModel) -> None:
        self.model = model
        self.blind = model.why_it_cannot_look()
        """Reason why the model has no activation maps; None where it has them."""

    def classify(self, file: Upload | None) -> tuple[dict[str, float] | str | None, list[int], Any]:
        """Return the best classes with their probabilities, their indices, and the activation map of the first one.

        An image unlike the training images gets a sentence in place of classes.
        """
        if file is None:
            return None, [], self._picture(None)
        image = _read(file)
        if self.model.abstains(image):
            return UNLIKE, [], self._picture(None)
        best = self.model.rank(image)[:BARS]
        bars, indices = {self.model.labels[index]: share for index, share in best}, [index for index, _ in best]
        return bars, indices, self._picture(image, indices[0])

    def look(self, file: Upload | None, indices: list[int], chosen: gr.SelectData) -> Any:
        """Return the activation map of the class whose bar was selected."""
        return self._picture(None) if file is None else self._picture(_read(file), indices[chosen.index])

    def _picture(self, image: Image.Image | None, index: int = 0) -> Any:
        if image is None or self.blind:
            return gr.Image(None, label=MAP)
        seen = self.model.look(image, index)
        return gr.Image(seen, label=(MAP_OF if seen else NO_MAP_OF).format(self.model.labels[index]))


def build_page(name: str, revision: str | None = None) -> gr.Blocks:
    """Build the web page of a model.

    Args:
        name: Folder of a saved model, Hub id, or folder or file of an exported model.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ConfigError: The runtime of an exported model is not installed.
        ModelError: The model does not exist, or cannot be used.
        PublishError: The record of the model is damaged.
    """
    model, record, figure = _open(name, revision)
    page = Page(model)
    title = one_line(Path(name).name) if record is None else title_of(record)
    is_multi_label = page.model.problem is MULTI_LABEL
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        _html(HEADER.format(title, (MULTIPLE if is_multi_label else SINGLE).format(len(page.model.labels))))
        with gr.Row():
            upload = gr.Image(label="Image", sources=["upload", "webcam", "clipboard"], **IN_A_ROW)
            with gr.Column(min_width=IN_A_ROW["min_width"]):
                # a multi-label prediction has no single best class
                bars = gr.Label(
                    label="Classes", num_top_classes=BARS, show_heading=not is_multi_label, elem_classes="hf-tl"
                )
                _html(NOTE.format(page.blind or HINT))
            seen = gr.Image(label=MAP, buttons=["fullscreen"], visible=page.blind is None, **IN_A_ROW)
        if record is not None:
            _html(tell_story(record, figure))
        ranking, raw = gr.State([]), {"preprocess": False, "concurrency_id": "model"}
        upload.change(page.classify, upload, [bars, ranking, seen], api_name="classify", **raw)
        bars.select(page.look, [upload, ranking], seen, api_visibility="private", **raw)
    return blocks


def _open(name: str, revision: str | None) -> tuple[PageModel, RunRecord | None, Path | None]:
    """Open a model, its record if hf_tl trained it, and the figure of its stages."""
    if (file := exported_file(name)) is not None:
        return ExportedDemoModel(file), read_exported_record(file), None
    record = _read_record(name, revision)
    model = DemoModel(name, revision, None if record is None else _read_detector(name, revision, record))
    return model, record, None if record is None else _file_of(name, revision, STAGES_FIGURE)


def _html(text: Markup) -> None:
    """Show HTML, as a block of Markdown, which ends at a blank line: `gr.HTML` would need a policy that allows eval."""
    gr.Markdown("\n".join(line for line in text.splitlines() if line.strip()), latex_delimiters=[])


def _read(file: Upload) -> Image.Image:
    """Read an uploaded image with the same conversions as training, and no other file.

    gradio checks that a path is an upload only for callers that declare it as one.
    """
    try:
        if not Path(file["path"] or "").resolve().is_relative_to(Path(get_upload_folder()).resolve()):
            raise DataError("there is no such upload; upload an image")
        return read_image(file["path"])
    except DataError as error:
        # gradio renders messages as HTML
        raise gr.Error(str(escape(error)), title="The image cannot be classified", print_exception=False) from error


def _read_record(name: str, revision: str | None) -> RunRecord | None:
    """Return the record of a model; None for a classifier that hf_tl did not train."""
    file = _file_of(name, revision, RECORD_FILE)
    return None if file is None else read_record_file(file, f"{RECORD_FILE} of {name}")


def _read_detector(name: str, revision: str | None, record: RunRecord) -> Detector | None:
    """Return the detector of a calibrated model; None for others.

    Raises:
        ModelError: It is damaged, or was fitted for other weights.
    """
    if record.abstention is None or (file := _file_of(name, revision, FILE)) is None:
        return None
    detector = Detector.read(file, len(record.data.labels))
    detector.check_weights(record.weights_digest, name)
    return detector


def _file_of(name: str, revision: str | None, file: str) -> Path | None:
    """Return the path of a file beside the weights; None where there is none."""
    if Path(name).is_dir():
        return path if (path := Path(name) / file).is_file() else None
    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except EntryNotFoundError:
        return None
