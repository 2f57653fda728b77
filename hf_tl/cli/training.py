"""Commands that train a model, or say how."""

from argparse import Namespace

from hf_tl.config import READING, SOURCE, DataConfig, ModelConfig, StrategyConfig, TrainingConfig
from hf_tl.errors import ConfigError
from hf_tl.flags import build_run_config
from hf_tl.parser import COUNT, DATASET, Parser, own_values


def train(options: Namespace) -> None:
    """Train a head, fine-tune, or train from scratch; save the model with its card."""
    from hf_tl.processes.memory import keep_freed_memory, paused_collection, uncollected

    config = build_run_config(vars(options))
    with paused_collection():
        from accelerate import PartialState

        import hf_tl.data.datasets  # noqa: F401
        from hf_tl.run import run
    if config.training.keep_memory:
        keep_freed_memory()
    with uncollected():
        run(config)
    PartialState().destroy_process_group()


def stages_parser() -> Parser:
    """Make the parser of `hf-tl stages`."""
    parser = Parser("stages", "List the stages of a backbone: names, parameters, and what a strategy freezes.")
    parser.add_argument("model", help="Hub id, local directory, or timm:ARCH")
    parser.add_setting(StrategyConfig, "trainable_stages", "trailing stages to train: a number, all, or names", 1)
    return parser


def stages(options: Namespace) -> None:
    """Print the stages of a backbone."""
    from hf_tl.backbones.describe import describe_stages

    print(describe_stages(options.model, options.trainable_stages))


def presets_parser() -> Parser:
    """Make the parser of `hf-tl presets`."""
    return Parser("presets", "List the presets: backbones by budget or pretraining, with their license.")


def presets(options: Namespace) -> None:
    """Print the presets."""
    from hf_tl.backbones.presets import describe_presets

    print(describe_presets())


def recommend_parser() -> Parser:
    """Make the parser of `hf-tl recommend`."""
    parser = Parser("recommend", "Recommend a backbone and a strategy for a dataset, with the cost of training.")
    parser.add_argument("--dataset", required=True, metavar="DATASET", help=DATASET)
    parser.add_argument(
        "--model",
        nargs="+",
        metavar="MODEL",
        help="backbones to compare, or a preset, as hf-tl presets lists them (default: the demo's backbone)",
    )
    text = "local weights files, one for each --model of timm:ARCH"
    parser.add_argument("--weights", nargs="+", metavar="FILE", help=text)
    parser.add_setting(ModelConfig, "image_size")
    for name in (*SOURCE, *READING, "validation_fraction", "test_fraction"):
        parser.add_setting(DataConfig, name)
    parser.add_setting(DataConfig, "include_training_images", "also measure on training images of the backbones")
    parser.add_setting(DataConfig, "inspection", "output folder of hf-tl inspect, to name its counts")
    parser.add_flag("max_images", "largest number of images to measure", COUNT, 2_000)
    parser.add_setting(StrategyConfig, "trial_budget", "minutes for trying strategies; 0: rules decide (default: 5)")
    parser.add_setting(StrategyConfig, "prefer", "what decides between strategies that were tried (default: accuracy)")
    parser.add_setting(DataConfig, "horizontal_flip", "mirror images in trials (default: yes, except digits)")
    parser.add_setting(TrainingConfig, "seed", "random seed (splits, sample, folds)")
    for name in ("feature_cache", "feature_cache_dir", "feature_cache_gb"):
        parser.add_setting(TrainingConfig, name)
    parser.add_output_dir("recommendation.json, its figure, and strategy.json")
    return parser


def recommend(options: Namespace) -> None:
    """Print a recommendation for a dataset."""
    values = own_values(options)
    names, weights = values.pop("model"), values.pop("weights")
    from hf_tl.advisor.recommend import recommend as find
    from hf_tl.backbones.candidates import Backbone, named
    from hf_tl.processes.memory import keep_freed_memory

    backbones = names
    if weights is not None:
        names = named(names or ())
        if len(weights) != len(names):
            raise ConfigError(
                f"expected one --weights file for each --model, found {len(weights)} files for {len(names)} models"
            )
        backbones = [Backbone(*pair) for pair in zip(names, weights, strict=True)]
    keep_freed_memory()
    print(find(values.pop("dataset"), backbones, **values))
