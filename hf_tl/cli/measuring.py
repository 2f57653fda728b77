"""Commands that use and evaluate trained models."""

from argparse import Namespace

from hf_tl.config import DataConfig
from hf_tl.parser import COUNT, DATASET, MODEL, SPLIT, Parser, own_values


def predict_parser() -> Parser:
    """Make the parser of `hf-tl predict`."""
    parser = Parser("predict", "Classify images with a trained model.")
    parser.add_argument("model", help=MODEL)
    parser.add_argument("images", nargs="+", metavar="IMAGE...", help="image files")
    parser.add_flag("top_k", "classes to show for each image", COUNT, 5)
    return parser


def predict(options: Namespace) -> None:
    """Print the most probable classes of images."""
    from hf_tl.evaluation.predict import predict_images

    for image, ranking in predict_images(options.model, options.images, options.top_k):
        print(image)
        for label, probability in ranking:
            print(f"  {probability:7.2%}  {label}")


def evaluate_parser() -> Parser:
    """Make the parser of `hf-tl evaluate`."""
    parser = Parser("evaluate", "Evaluate a trained model on a split of a dataset.")
    parser.add_argument("model_name", metavar="MODEL", help=MODEL)
    parser.add_argument("--dataset", required=True, metavar="DATASET", help=DATASET)
    _add_evaluation_flags(parser)
    parser.add_setting(DataConfig, "exclude_list")
    return parser


def evaluate(options: Namespace) -> None:
    """Print the metrics of a model, shares as percentages, each with its 95% confidence interval."""
    from hf_tl.evaluation.predict import evaluate_model
    from hf_tl.reporting.numbers import range_of

    evaluation = evaluate_model(**own_values(options))
    learned = f" ({evaluation.learned:,} of them training images)" if evaluation.learned else ""
    print(f"{options.split}: {evaluation.images:,} images{learned}")
    for note in evaluation.exclusions:
        print(f"data: {note}")
    for note in evaluation.notes:
        print(f"leakage: {note}")
    width = max(14, *map(len, evaluation.metrics))
    for name, value in evaluation.metrics.items():
        is_share = name in evaluation.percentages
        interval = range_of(evaluation.intervals.get(name), is_percentage=is_share)
        shown = f"{value:.1%}" if is_share else f"{value:.4f}"
        print(f"  {name:<{width}} {shown}{f' (95% CI {interval})' if name in evaluation.intervals else ''}")


def compare_parser() -> Parser:
    """Make the parser of `hf-tl compare`."""
    parser = Parser("compare", "Compare two trained models on the same images, with a test of significance.")
    parser.add_argument("first", metavar="A", help=MODEL)
    parser.add_argument("second", metavar="B", help="the other model")
    parser.add_argument("--dataset", metavar="DATASET", help=f"{DATASET} (default: the training dataset of both)")
    _add_evaluation_flags(parser)
    text = "folder for comparison.json, comparison.md and comparison.png"
    parser.add_argument("--output_dir", metavar="DIR", help=text)
    return parser


def compare(options: Namespace) -> None:
    """Print which of two models is better."""
    from hf_tl.comparison.compare import compare as find
    from hf_tl.processes.memory import keep_freed_memory

    keep_freed_memory()
    print(find(**own_values(options)))


def _add_evaluation_flags(parser: Parser) -> None:
    parser.add_flag("split", "split to evaluate on", SPLIT, "test")
    for name in ("image_column", "label_column"):
        parser.add_setting(DataConfig, name)
    text = "also evaluate on images that a model was trained on, and count them (default: excluded)"
    parser.add_setting(DataConfig, "include_training_images", text)
    parser.add_flag("batch_size", "batch size", COUNT, 64)
