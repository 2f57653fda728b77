"""Commands that use and evaluate trained models."""

from argparse import Namespace

from hf_tl.config import READING, SOURCE, DataConfig, TrainingConfig
from hf_tl.parser import ANY_MODEL, COUNT, DATASET, SPLIT, Parser, own_values
from hf_tl.ranges import SHARE, Domain


def predict_parser() -> Parser:
    """Make the parser of `hf-tl predict`."""
    examples = (
        "hf-tl predict out cat.jpg",
        "hf-tl predict out photos 'more/**/*.jpg' --output predictions.csv",
        "hf-tl predict out @list.txt --output predictions.parquet",
        "hf-tl predict out --dataset user/name --split test --output predictions.parquet",
        "hf-tl predict out/onnx cat.jpg",
    )
    parser = Parser("predict", "Classify images with a trained model.", examples)
    parser.add_argument("model", help=ANY_MODEL)
    text = "image files, folders (all images in them), patterns, or @FILE (a text file with a path on each line)"
    parser.add_argument("images", nargs="*", metavar="PATH...", help=text)
    text = "Hub id, or parquet, tar or zip files, whose images to classify instead of paths"
    parser.add_argument("--dataset", metavar="DATASET", help=text)
    parser.add_flag("split", "split of the dataset (default: the only one)", Domain((str,)), metavar="NAME")
    for name in (*SOURCE, "image_column"):
        parser.add_setting(DataConfig, name)
    text = "read parquet files over the network when their rows are needed, and store none"
    parser.add_argument("--streaming", action="store_true", help=text)
    text = "table to write: .csv, .jsonl or .parquet (default: print the classes of each image)"
    parser.add_flag("output", text, Domain((str,)), metavar="FILE", alias="-o")
    parser.add_flag("top_k", "classes for each image (default: 5; with --threshold: all)", COUNT)
    text = "smallest probability of a class, for multi-label models (default: no limit)"
    parser.add_flag("threshold", text, SHARE)
    text = "give no class to images unlike the training images (needs hf-tl calibrate)"
    parser.add_argument("--abstain", action="store_true", help=text)
    text = "all classes that an image may have, with the coverage of hf-tl calibrate"
    parser.add_argument("--prediction_sets", action="store_true", help=text)
    text = "also write the embedding of each image: the input of the last layer (needs --output)"
    parser.add_argument("--embeddings", action="store_true", help=text)
    parser.add_flag("batch_size", "images per step", COUNT, 8)
    parser.add_setting(DataConfig, "max_image_pixels")
    return parser


def predict(options: Namespace) -> None:
    """Print or write the most probable classes of images."""
    from hf_tl.predicting.command import predict_named
    from hf_tl.processes.memory import image_pixel_limit, keep_freed_memory

    keep_freed_memory()
    values = own_values(options)
    with image_pixel_limit(values.pop("max_image_pixels")):
        predict_named(**values)


def calibrate_parser() -> Parser:
    """Make the parser of `hf-tl calibrate`."""
    text = "Fit on held-out images when a trained model abstains."
    parser = Parser("calibrate", text)
    parser.add_argument("model", metavar="DIR", help="folder of a trained model, which gets abstention.safetensors")
    text = "images that it was trained on (default: those of the training, if they are a Hub dataset or digits)"
    parser.add_argument("--dataset", metavar="DATASET", help=text)
    parser.add_flag("accept", "share of validation images that the model does not abstain from", SHARE, 0.95)
    parser.add_flag("coverage", "share of the images of each class whose prediction set holds it", SHARE, 0.9)
    parser.add_flag("batch_size", "images per step", COUNT, 64)
    for name in (*SOURCE, *READING):
        parser.add_setting(DataConfig, name)
    return parser


def calibrate(options: Namespace) -> None:
    """Print what was fitted and measured."""
    from hf_tl.card.sections.abstention import abstention_lines
    from hf_tl.predicting.calibrate import calibrate as fit

    for title, text in abstention_lines(fit(**own_values(options))).items():
        print(f"{title}: {text}")


def evaluate_parser() -> Parser:
    """Make the parser of `hf-tl evaluate`."""
    parser = Parser("evaluate", "Evaluate a trained model on labeled images.")
    parser.add_argument("model", metavar="MODEL", help=ANY_MODEL)
    parser.add_argument("--dataset", required=True, metavar="DATASET", help=DATASET)
    text = "split of a dataset that has splits (default: test, or validation); of others, all images are evaluated"
    _add_evaluation_flags(parser, text, SPLIT)
    for name in (*SOURCE, *READING, "skip_bad_images", "max_image_pixels"):
        parser.add_setting(DataConfig, name)
    text = (
        "also measure the metrics under five corruptions at three strengths (noise, blur, JPEG, brightness, contrast): "
        "16 times the time"
    )
    parser.add_setting(TrainingConfig, "corruptions", text)
    text = "images of none of the classes: files, folders, patterns, @FILE (needs hf-tl calibrate)"
    parser.add_argument("--ood", nargs="+", metavar="PATH", help=text)
    parser.add_output_dir("evaluation.json, evaluation.md, confusion.png, reliability.png and robustness.png")
    return parser


def evaluate(options: Namespace) -> None:
    """Print the metrics of a model, shares as percentages, each with its 95% confidence interval."""
    from hf_tl.predicting.evaluate import evaluate as measure
    from hf_tl.predicting.report import describe
    from hf_tl.processes.memory import image_pixel_limit

    values = own_values(options)
    with image_pixel_limit(values.pop("max_image_pixels")):
        evaluation = measure(**values)
    for line in describe(evaluation):
        print(line)


def compare_parser() -> Parser:
    """Make the parser of `hf-tl compare`."""
    parser = Parser("compare", "Compare two trained models on the same images, with a test of significance.")
    parser.add_argument("first", metavar="A", help=ANY_MODEL)
    parser.add_argument("second", metavar="B", help="the other model")
    parser.add_argument("--dataset", metavar="DATASET", help=f"{DATASET} (default: the training dataset of both)")
    text = "split of a dataset that has splits (default: test, or validation); of others, all images are compared"
    _add_evaluation_flags(parser, text, SPLIT)
    for name in (*SOURCE, *READING):
        parser.add_setting(DataConfig, name)
    parser.add_output_dir("comparison.json, comparison.md and comparison.png")
    return parser


def compare(options: Namespace) -> None:
    """Print which of two models is better."""
    from hf_tl.comparison.compare import compare as find
    from hf_tl.processes.memory import keep_freed_memory

    keep_freed_memory()
    print(find(**own_values(options)))


def _add_evaluation_flags(parser: Parser, text: str, split: Domain) -> None:
    parser.add_flag("split", text, split)
    text = "also evaluate on images that a model was trained on, and count them (default: excluded)"
    parser.add_setting(DataConfig, "include_training_images", text)
    parser.add_flag("batch_size", "batch size", COUNT, 64)
