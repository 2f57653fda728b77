"""ONNX file with its preprocessing inside: an image of any size to probabilities.

The steps of `preprocessing.json` become operators in front of the network. ONNX Runtime resizes bytes by the algorithm
of Pillow, with other rounding, so that some pixels differ by a level; the export measures how many.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tl.errors import ModelError, SaveError
from hf_tl.exporting.checks import LEVELS
from hf_tl.exporting.formats import explained
from hf_tl.runtime.exported import ABSTENTION
from hf_tl.runtime.runners import INPUT, OUTPUT, SCORE, open_session, parts_of, run_session
from hf_tl.runtime.whole import IMAGE, LABELS, PROBABILITIES, SCORES, WholeModel

if TYPE_CHECKING:
    from onnx import NodeProto
    from PIL import Image

FILE = "model_with_preprocessing.onnx"
PIXELS_FILE = "pixels.onnx"
LARGEST_DIFFERENCE = 0.01
"""Maximum difference of a probability on an image, against the model with its own preprocessing."""
MODES = {"bilinear": "linear", "bicubic": "cubic"}
GRAY = (19595, 38470, 7471)
"""Weights of red, green and blue in Pillow's conversion to gray, of 65,536."""


def check_whole(steps: Mapping[str, Any]) -> None:
    """Check, before anything is written, that a preprocessing can be written as operators of ONNX.

    Raises:
        ModelError: It cannot.
    """
    resize, crop = steps["resize"], steps["center_crop"]
    if resize is None or "max_width" in resize or steps.get("pad") is not None:
        raise _unsupported("resizes to a size or to the shortest edge", "another resize" if resize else "no resize")
    if steps["interpolation"] not in MODES:
        raise _unsupported(f"interpolates by {' or '.join(MODES)}", steps["interpolation"])
    sides = (resize.get("height"), resize.get("width")) if "height" in resize else (resize["shortest_edge"],) * 2
    if crop is not None and (crop["height"] > sides[0] or crop["width"] > sides[1]):
        raise _unsupported("crops a part of the resized image", "a crop that is larger")


def _unsupported(expected: str, actual: str) -> ModelError:
    return ModelError(
        f"expected a preprocessing that {expected}, found {actual}: leave out --with_preprocessing, and use "
        "preprocessing.json"
    )


def write_whole(network: Path, steps: Mapping[str, Any]) -> Path:
    """Write the network of an ONNX file with its preprocessing in front and probabilities behind it.

    Args:
        network: Exported file, in a folder where the new one is written.
        steps: Preprocessing that `check_whole` accepts, with `scores` and `labels`, which become metadata.

    Raises:
        SaveError: The network is too large for one file.
    """
    import onnx
    from onnx import TensorProto, helper

    if len(parts_of(network)) > 1:
        raise SaveError("--with_preprocessing needs a network that fits into one file, of 2 GB: leave it out")
    with explained("the network cannot be written with its preprocessing", "leave out --with_preprocessing"):
        model = onnx.load(network)
        steps_alone, whole = _Operators(), _Operators()
        for operators in (steps_alone, whole):
            operators.add_steps(steps)
        whole.nodes += model.graph.node
        whole.values += model.graph.initializer
        whole.add_scores(steps["scores"])
        image = helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["height", "width", 3])
        shape = [1, len(steps["mean"]), steps["size"]["height"], steps["size"]["width"]]
        pixels = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)
        scores = helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [len(steps["labels"])])
        outputs = [scores]
        metadata = {SCORES: steps["scores"], LABELS: json.dumps(steps["labels"])}
        if ABSTENTION in steps:
            outputs.append(helper.make_tensor_value_info(_squeeze_score(whole), TensorProto.FLOAT, []))
            metadata[ABSTENTION] = json.dumps(steps[ABSTENTION])
        for operators, made_outputs, file in ((steps_alone, [pixels], PIXELS_FILE), (whole, outputs, FILE)):
            graph = helper.make_graph(operators.nodes, "hf_tl", [image], made_outputs, operators.values)
            versions = {"opset_imports": model.opset_import, "ir_version": model.ir_version}
            made = helper.make_model(graph, producer_name="hf_tl", **versions)
            helper.set_model_props(made, metadata)
            onnx.save(made, network.with_name(file))
    return network.with_name(FILE)


def _squeeze_score(whole: "_Operators") -> str:
    """Make the output with the score of a batch that of one image, under the same name, and return the name."""
    inner = f"{SCORE}_of_a_batch"
    for node in whole.nodes:
        node.output[:] = [inner if name == SCORE else name for name in node.output]
    return whole.add("Squeeze", inner, whole.constant([0]), output=SCORE)


def verify_whole(
    whole: Path,
    images: Sequence["Image.Image"],
    pixels: np.ndarray,
    expected: np.ndarray,
    std: Sequence[float],
) -> dict[str, Any]:
    """Verify a file with its preprocessing on images, against the model with its own, and remove `PIXELS_FILE`.

    Args:
        whole: The file.
        images: Sample images.
        pixels: Inputs of the network that the model's own preprocessing makes of these.
        expected: Probabilities that the model gives them.
        std: Standard deviations of the preprocessing.

    Returns:
        Differences of pixels, in levels of 0 to 255, and of probabilities, for `export.json`.

    Raises:
        SaveError: The file cannot be run, or differs by more than `LEVELS` or `LARGEST_DIFFERENCE`.
    """
    alone = whole.with_name(PIXELS_FILE)
    with explained("the file with its preprocessing does not run", "leave out --with_preprocessing"):
        model, steps = WholeModel(whole, open_session(whole)), open_session(alone)
        arrays = [model.pixels(image, "an image") for image in images]
        made = np.concatenate([run_session(steps, IMAGE, array, [INPUT])[0] for array in arrays])
        probabilities = model.outputs(arrays).probabilities
        levels = np.abs(made - pixels) * np.abs(np.reshape(std, (-1, 1, 1))) * 255
    alone.unlink()
    largest = float(np.abs(probabilities - expected).max())
    if not (mean := float(levels.mean(axis=(1, 2, 3)).max())) <= LEVELS or not largest <= LARGEST_DIFFERENCE:
        raise SaveError(
            f"the file with its preprocessing must give the pixels of the model, up to {LEVELS:.0f} level of 255 in "
            f"the mean of an image, and its probabilities, up to {LARGEST_DIFFERENCE}; found differences of "
            f"{mean:.2g} levels and {largest:.2g}: nothing was exported, leave out --with_preprocessing"
        )
    return {
        "images": len(images),
        "pixel_levels": {
            "mean": float(levels.mean()),
            "largest": float(levels.max()),
            "share": float((levels > 0.5).mean()),
        },
        "probabilities": largest,
        "same_prediction": float(np.mean(_decided(model, probabilities) == _decided(model, expected))),
    }


def _decided(model: WholeModel, probabilities: np.ndarray) -> np.ndarray:
    """Return the class of each image; of a multi-label model, which classes it has."""
    return probabilities > 0.5 if model.is_multi_label else probabilities.argmax(axis=1)


class _Operators:
    """Operators and constants that make the inputs of a network of an image."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.values: list[Any] = []

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """Add a constant, and return its name."""
        from onnx import numpy_helper

        name = f"hf_tl_constant_{len(self.values)}"
        self.values.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add an operator with one output, and return the name of that."""
        from onnx import helper

        name = output or f"hf_tl_{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=f"node_{name}", **attributes))
        return name

    def cast(self, value: str, to: type) -> str:
        """Add a conversion to another type."""
        from onnx import helper

        return self.add("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))

    def add_steps(self, steps: Mapping[str, Any]) -> None:
        """Add the steps in the order of `hf_tl.runtime.preprocessing`."""
        image = self._to_gray() if steps["mode"] == "L" else IMAGE
        image = self.add("Unsqueeze", self.add("Transpose", image, perm=[2, 0, 1]), self.constant([0]))
        image = self._resize(image, steps["resize"], steps["interpolation"], len(steps["mean"]))
        if (crop := steps["center_crop"]) is not None:
            image = self._crop(image, crop)
        order = [steps["mode"].index(channel) for channel in steps["channel_order"]]
        if order != sorted(order):
            image = self.add("Gather", image, self.constant(order), axis=1)
        mean, std = (np.reshape(steps[name], (1, -1, 1, 1)) for name in ("mean", "std"))
        scaled = self.add("Mul", self.cast(image, np.float32), self.constant(steps["rescale_factor"], np.float32))
        centered = self.add("Sub", scaled, self.constant(mean, np.float32))
        self.add("Div", centered, self.constant(std, np.float32), output=INPUT)

    def add_scores(self, scores: str) -> None:
        """Add the probabilities of the classes, for the logits of one image."""
        shares = self.add("Sigmoid", OUTPUT) if scores == "sigmoid" else self.add("Softmax", OUTPUT, axis=1)
        self.add("Squeeze", shares, self.constant([0]), output=PROBABILITIES)

    def _to_gray(self) -> str:
        products = self.add("Mul", self.cast(IMAGE, np.int32), self.constant(GRAY, np.int32))
        total = self.add("ReduceSum", products, self.constant([2]), keepdims=1)
        rounded = self.add("Add", total, self.constant(32768, np.int32))
        return self.cast(self.add("Div", rounded, self.constant(65536, np.int32)), np.uint8)

    def _resize(self, image: str, size: Mapping[str, int], interpolation: str, channels: int) -> str:
        if "height" in size:
            sides = self.constant([size["height"], size["width"]])
        else:
            sides = self._sides(image)
            shortest = self.add("ReduceMin", sides, keepdims=1)
            longer = self.add("Mul", sides, self.constant([size["shortest_edge"]]))
            sides = self.add("Div", longer, shortest)
        sizes = self.add("Concat", self.constant([1, channels]), sides, axis=0)
        settings: dict[str, Any] = {"antialias": 1, "coordinate_transformation_mode": "half_pixel"}
        settings |= {"exclude_outside": 1}  # at the edges, as Pillow does
        settings |= {"cubic_coeff_a": -0.5} if interpolation == "bicubic" else {}
        return self.add("Resize", image, "", "", sizes, mode=MODES[interpolation], **settings)

    def _crop(self, image: str, crop: Mapping[str, Any]) -> str:
        part = self.constant([crop["height"], crop["width"]])
        rest = self.add("Sub", self._sides(image), part)
        if crop["offset"] == "round":  # half to even, as Python rounds
            half = self.add("Mul", self.cast(rest, np.float32), self.constant(0.5, np.float32))
            start = self.cast(self.add("Round", half), np.int64)
        else:
            start = self.add("Div", rest, self.constant([2]))
        return self.add("Slice", image, start, self.add("Add", start, part), self.constant([2, 3]))

    def _sides(self, image: str) -> str:
        return self.add("Shape", image, start=2)
