"""The page of a model: an image goes in; the most probable classes and where the model saw them come out.

What is not hf_tl's own (labels, names of data, notes) reaches the page as text alone: gradio's labels and captions are
text, and the story escapes what it tells.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from markupsafe import Markup, escape
from PIL import Image

from hf_tl.demo.demo_model import DemoModel, read_image
from hf_tl.demo.demo_story import tell_story, title_of
from hf_tl.errors import DataError
from hf_tl.evaluation.metrics import MULTI_LABEL
from hf_tl.record import RECORD_FILE, RunRecord, read_record_file
from hf_tl.reporting.markdown import one_line

BARS = 5
IN_A_ROW = {"height": 360, "min_width": 300}
KEPT = 3_600
"""Seconds after which an uploaded image is removed from the disk."""
LOOKED, SEEN, UNSEEN = "Where it looked", "Where it saw “{}”", "Nothing in the image speaks for “{}”"
ONE, MANY = (
    "It tells {:,} classes of images apart.",
    "It tells which of its classes an image shows, any number of them.",
)
HINT = "Click a class to see where the model saw it, in the part of the image that it was given."
HEADER = Markup('<header class="hf-tl"><h1>{}</h1><p>{}</p></header>')
NOTE = Markup('<p class="hf-tl note">{}</p>')
STAGES_FIGURE = "stages.png"
THEME = gr.themes.Default(
    primary_hue="orange", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
)
"""With the fonts that a visitor has: nothing is fetched from elsewhere."""
Upload = Mapping[str, Any]
"""What gradio tells of an uploaded file that it is not asked to read."""


class Page:
    """What a page does when somebody uses it."""

    def __init__(self, model: DemoModel) -> None:
        self.model = model
        self.blind = model.why_it_cannot_look()
        """Why it cannot be told where the model looks; None where it can."""

    def classify(self, file: Upload | None) -> tuple[dict[str, float] | None, list[int], Any]:
        """Give the best classes with their probabilities, their indices, and where the first one was seen."""
        if file is None:
            return None, [], self._picture(None)
        image = _read(file)
        best = self.model.rank(image)[:BARS]
        bars, indices = {self.model.labels[index]: share for index, share in best}, [index for index, _ in best]
        return bars, indices, self._picture(image, indices[0])

    def look(self, file: Upload | None, indices: list[int], chosen: gr.SelectData) -> Any:
        """Show where the class of the bar that was chosen was seen."""
        return self._picture(None) if file is None else self._picture(_read(file), indices[chosen.index])

    def _picture(self, image: Image.Image | None, index: int = 0) -> Any:
        if image is None or self.blind:
            return gr.Image(None, label=LOOKED)
        seen = self.model.look(image, index)
        return gr.Image(seen, label=(SEEN if seen else UNSEEN).format(self.model.labels[index]))


def build_page(name: str, revision: str | None = None) -> gr.Blocks:
    """Build the page of a model.

    Args:
        name: a saved model's folder, or a Hub id.
        revision: branch, tag or commit on the Hub.

    Raises:
        ModelError: there is no such model.
        PublishError: its record is not whole.
    """
    page, record = Page(DemoModel(name, revision)), _read_record(name, revision)
    title = one_line(Path(name).name) if record is None else title_of(record)
    is_multi_label = page.model.problem is MULTI_LABEL
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        _html(HEADER.format(title, MANY if is_multi_label else ONE.format(len(page.model.labels))))
        with gr.Row():
            upload = gr.Image(label="Image", sources=["upload", "webcam", "clipboard"], **IN_A_ROW)
            with gr.Column(min_width=IN_A_ROW["min_width"]):
                # the best of several classes is no answer where each is in the image or not
                bars = gr.Label(
                    label="Classes", num_top_classes=BARS, show_heading=not is_multi_label, elem_classes="hf-tl"
                )
                _html(NOTE.format(page.blind or HINT))
            seen = gr.Image(label=LOOKED, buttons=["fullscreen"], visible=page.blind is None, **IN_A_ROW)
        if record is not None:
            _html(tell_story(record, _file_of(name, revision, STAGES_FIGURE)))
        ranking, raw = gr.State([]), {"preprocess": False, "concurrency_id": "model"}
        upload.change(page.classify, upload, [bars, ranking, seen], api_name="classify", **raw)
        bars.select(page.look, [upload, ranking], seen, api_visibility="private", **raw)
    return blocks


def _html(text: Markup) -> None:
    gr.HTML(str(text), js_on_load=None)


def _read(file: Upload) -> Image.Image:
    """Read an uploaded image as training reads its own, and nothing else.

    gradio checks that a file lies among the uploads only where its caller says that it is one.
    """
    try:
        if not Path(file["path"] or "").resolve().is_relative_to(Path(get_upload_folder()).resolve()):
            raise DataError("there is no such upload; upload an image")
        return read_image(file["path"])
    except DataError as error:
        # gradio shows a message as HTML
        raise gr.Error(str(escape(error)), title="It cannot be classified", print_exception=False) from error


def _read_record(name: str, revision: str | None) -> RunRecord | None:
    """Read the record of a model; None for a classifier that hf_tl did not train."""
    file = _file_of(name, revision, RECORD_FILE)
    return None if file is None else read_record_file(file, f"{RECORD_FILE} of {name}")


def _file_of(name: str, revision: str | None, file: str) -> Path | None:
    """Return the path of a file beside the weights; None where there is none."""
    if Path(name).is_dir():
        return path if (path := Path(name) / file).is_file() else None
    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except EntryNotFoundError:
        return None
