"""The command line: `hf-tl COMMAND …`.

An input error prints one line on stderr and exits with status 2. Ctrl-C prints one line and exits with status 130.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NoReturn

from hf_tl.config import DataConfig, ModelConfig, StrategyConfig, TrainingConfig
from hf_tl.errors import ConfigError, HfTlError
from hf_tl.flags import Parser, parse_run_config
from hf_tl.ranges import Domain
from hf_tl.reporting.console import tolerant_streams

ERROR_STATUS, INTERRUPTED_STATUS = 2, 130
COUNT = Domain((int,), at_least=1)
PORT = Domain((int,), at_least=1, at_most=65_535)
SPLIT = Domain((str,), ("train", "validation", "test"))
FORMAT = Domain((str,), ("onnx", "torchscript", "torch_export"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, by default from the arguments of the process."""
    with tolerant_streams():
        _run(list(sys.argv[1:] if arguments is None else arguments))


def _run(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return
    command, *rest = words
    try:
        if command not in COMMANDS:
            raise ConfigError(f"there is no command {command!r}; commands: {', '.join(COMMANDS)}")
        COMMANDS[command](rest)
    except HfTlError as error:
        _leave(command, str(error), ERROR_STATUS)
    except KeyboardInterrupt:
        _leave(command, "interrupted", INTERRUPTED_STATUS)


def _leave(command: str, message: str, status: int) -> NoReturn:
    # all processes of a distributed run end for the same reason: print it once
    if os.environ.get("RANK", "0") == "0":
        print(f"hf-tl {command}: {message}", file=sys.stderr)
    sys.exit(status)


def train(arguments: list[str]) -> None:
    """Train a head, fine-tune, or train from scratch; save the model with its card."""
    from hf_tl.processes.memory import keep_freed_memory, paused_collection, uncollected

    config = parse_run_config(arguments)
    with paused_collection():
        from accelerate import PartialState

        from hf_tl.run import import_libraries, run

        import_libraries()
    if config.training.keep_memory:
        keep_freed_memory()
    with uncollected():
        run(config)
    PartialState().destroy_process_group()


def stages(arguments: list[str]) -> None:
    """List the stages of a backbone, with parameter counts and what a strategy freezes."""
    parser = Parser("stages", stages.__doc__)
    parser.add_argument("model", help="Hub id, local directory, or timm:ARCH")
    parser.add_setting(StrategyConfig, "trainable_stages", "trailing stages to train, all, or names", 1)
    options = parser.parse(arguments)
    from hf_tl.backbones.describe import describe_stages

    print(describe_stages(options.model, options.trainable_stages))


def recommend(arguments: list[str]) -> None:
    """Measure which backbone and which strategy suit a dataset, and what training would cost."""
    parser = Parser("recommend", recommend.__doc__)
    parser.add_argument("--dataset", required=True, help="Hub id, image folder, parquet files, or digits")
    parser.add_argument(
        "--model",
        nargs="+",
        help="backbones to compare, or mobile, small or base, which are lists of some; the demo's by default",
    )
    parser.add_argument("--weights", nargs="+", help="local files with the weights, one for each model of timm:ARCH")
    parser.add_setting(ModelConfig, "image_size")
    for name in ("image_column", "label_column", "validation_fraction", "test_fraction", "include_training_images"):
        parser.add_setting(DataConfig, name)
    parser.add_flag("max_images", "images to look at, at most", COUNT, 2_000)
    parser.add_setting(TrainingConfig, "seed", "random seed (splits, sample, folds)")
    for name in ("feature_cache", "feature_cache_dir", "feature_cache_gb"):
        parser.add_setting(TrainingConfig, name)
    parser.add_argument("--output_dir", help="folder for recommendation.json, its figure, and the strategy")
    options = vars(parser.parse(arguments))
    names, weights = options.pop("model"), options.pop("weights")
    from hf_tl.advisor.recommend import recommend as find
    from hf_tl.backbones.candidates import Backbone, named
    from hf_tl.processes.memory import keep_freed_memory

    names = None if names is None else named(names)
    if weights is not None and len(weights) != len(names or ()):
        raise ConfigError(f"--weights needs a file for each --model: found {len(weights)} for {len(names or ())}")
    keep_freed_memory()
    pairs = (
        None if names is None else [Backbone(*pair) for pair in zip(names, weights or [None] * len(names), strict=True)]
    )
    print(find(options.pop("dataset"), pairs, **options))


def predict(arguments: list[str]) -> None:
    """Classify images with a trained model."""
    parser = Parser("predict", predict.__doc__)
    parser.add_argument("model", help="folder of a trained model, or Hub id")
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_flag("top_k", "classes to show for each image", COUNT, 5)
    options = parser.parse(arguments)
    from hf_tl.evaluation.predict import predict_images

    for image, ranking in predict_images(options.model, options.images, options.top_k):
        print(image)
        for label, probability in ranking:
            print(f"  {probability:7.2%}  {label}")


def evaluate(arguments: list[str]) -> None:
    """Measure a trained model on a dataset's split."""
    parser = Parser("evaluate", evaluate.__doc__)
    parser.add_argument("model_name", metavar="model", help="folder of a trained model, or Hub id")
    parser.add_argument("--dataset", required=True, help="Hub id, image folder, parquet files, or digits")
    parser.add_flag("split", "the split to measure on", SPLIT, "test")
    for name in ("image_column", "label_column", "include_training_images"):
        parser.add_setting(DataConfig, name)
    parser.add_flag("batch_size", "images a step", COUNT, 64)
    options = parser.parse(arguments)
    from hf_tl.evaluation.predict import evaluate_model

    found = evaluate_model(**vars(options))
    learned = f" ({found.learned:,} of them training images)" if found.learned else ""
    print(f"{options.split}: {found.images:,} images{learned}")
    for note in found.notes:
        print(f"leakage: {note}")
    width = max(14, *map(len, found.metrics))
    for name, value in found.metrics.items():
        print(f"  {name:<{width}} {value:.4f}" if isinstance(value, float) else f"  {name:<{width}} {value}")


def compare(arguments: list[str]) -> None:
    """Compare two trained models on the same images: which is better, and whether that may be chance."""
    parser = Parser("compare", compare.__doc__)
    parser.add_argument("first", metavar="A", help="folder of a trained model, or Hub id")
    parser.add_argument("second", metavar="B", help="the same")
    parser.add_argument(
        "--dataset", help="Hub id, image folder, parquet files, or digits; by default what both were trained on"
    )
    parser.add_flag("split", "the split to measure on", SPLIT, "test")
    for name in ("image_column", "label_column", "include_training_images"):
        parser.add_setting(DataConfig, name)
    parser.add_flag("batch_size", "images a step", COUNT, 64)
    parser.add_argument("--output_dir", help="folder for comparison.json, comparison.md and comparison.png")
    options = parser.parse(arguments)
    from hf_tl.comparison.compare import compare as find
    from hf_tl.processes.memory import keep_freed_memory

    keep_freed_memory()
    print(find(**vars(options)))


def demo(arguments: list[str]) -> None:
    """Start a page on which a trained model classifies images and shows where it looked."""
    parser = Parser("demo", demo.__doc__)
    parser.add_argument("name", metavar="model", help="folder of a trained model, or Hub id")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub; main by default")
    parser.add_argument("--server_name", default="127.0.0.1", help="address to listen on")
    parser.add_flag("server_port", "port; the first free one from 7860 by default", PORT)
    options = vars(parser.parse(arguments))
    from hf_tl.demo.demo import launch

    launch(**options)


def push(arguments: list[str]) -> None:
    """Publish a trained model with its card on the Hub, in one commit."""
    parser = Parser("push", push.__doc__)
    parser.add_argument("folder", help="folder of a trained model")
    parser.add_argument("repository", help="USER/NAME")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="branch to commit to; main by default")
    parser.add_argument("--create_pr", action="store_true", help="propose the commit in a pull request")
    parser.add_argument("--space", action="store_true", help="make a Space of the same name that shows the model")
    parser.add_argument("--space_name", help="USER/NAME of the Space, where it is to have another name")
    options = parser.parse(arguments)
    if options.space or options.space_name:
        _push_with_space(options)
        return
    from hf_tl.hub.hub import push as push_folder

    url = push_folder(
        options.folder,
        options.repository,
        private=options.private or None,
        revision=options.revision,
        create_pr=options.create_pr,
    )
    print(url)


def _push_with_space(options: Namespace) -> None:
    if options.create_pr:
        raise ConfigError("--space shows a model that is published, and --create_pr only proposes one: leave one out")
    from hf_tl.demo.space import push_with_space

    names = options.folder, options.repository, options.space_name
    print(*push_with_space(*names, private=options.private or None, revision=options.revision), sep="\n")
    if options.private:
        print("To read a private model, the Space needs a secret HF_TOKEN (in its settings).")


def pull(arguments: list[str]) -> None:
    """Fetch a published model with its card and record into a new folder."""
    parser = Parser("pull", pull.__doc__)
    parser.add_argument("repository", help="USER/NAME")
    parser.add_argument("folder", help="folder that does not exist yet")
    parser.add_argument("--revision", help="branch, tag or commit; main by default")
    options = parser.parse(arguments)
    from hf_tl.hub.fetch import pull as pull_folder

    print(pull_folder(options.repository, options.folder, revision=options.revision))


def card(arguments: list[str]) -> None:
    """Write a trained model's card again from its record."""
    parser = Parser("card", card.__doc__)
    parser.add_argument("folder", help="folder of a trained model")
    options = parser.parse(arguments)
    from hf_tl.publish.save import rewrite_card

    print(rewrite_card(options.folder))


def export(arguments: list[str]) -> None:
    """Write a trained model as ONNX, TorchScript or torch.export, verified on real images."""
    parser = Parser("export", export.__doc__)
    parser.add_argument("model_name", metavar="model", help="folder of a trained model, or Hub id")
    parser.add_flag("format", "of the file", FORMAT, "onnx")
    parser.add_argument("--output_dir", help="new folder; by default one called like the format in the model's")
    parser.add_argument("--dataset", help="images to verify on; by default those of the training, where it is known")
    parser.add_argument("--int8", action="store_true", help="also quantize, and measure the accuracy (onnx only)")
    for name in ("image_column", "label_column", "include_training_images"):
        parser.add_setting(DataConfig, name)
    parser.add_argument("--overwrite_output_dir", action="store_true", help="replace an export in the folder")
    options = parser.parse(arguments)
    from hf_tl.exporting.export import export as export_model
    from hf_tl.exporting.summary import summarise

    print(summarise(export_model(**vars(options))))


def cache(arguments: list[str]) -> None:
    """List the features that are kept on the disk, or clear them."""
    parser = Parser("cache", cache.__doc__)
    parser.add_argument("action", nargs="?", choices=["list", "clear"], default="list", help="list by default")
    parser.add_setting(TrainingConfig, "feature_cache_dir")
    options = parser.parse(arguments)
    from hf_tl.features.feature_store import open_store

    store = open_store(options.feature_cache_dir, 0)
    folder = store.folder
    if options.action == "clear":
        try:
            print(f"{_megabytes(store.clear())} freed in {folder}")
        except OSError as error:
            raise ConfigError(f"{folder} cannot be cleared: {error.strerror or error} ({error.filename})") from error
        return
    entries = store.entries()
    for entry in entries:
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
        print(f"{_megabytes(entry.bytes):>12}  last used {used}  {entry.title}")
    total = _megabytes(sum(entry.bytes for entry in entries))
    print(f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}, {total} in {folder}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _overview() -> str:
    rows = [f"  {name:<10} {(function.__doc__ or '').splitlines()[0]}" for name, function in COMMANDS.items()]
    title = ["usage: hf-tl COMMAND …", "", "Transfer learning and fine-tuning of image classifiers."]
    hint = "hf-tl COMMAND --help tells its flags. Without any, hf-tl train runs on the embedded demo."
    return "\n".join([*title, "", *rows, "", hint])


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "stages": stages,
    "recommend": recommend,
    "predict": predict,
    "evaluate": evaluate,
    "compare": compare,
    "demo": demo,
    "push": push,
    "pull": pull,
    "card": card,
    "export": export,
    "cache": cache,
}
