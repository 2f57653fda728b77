"""Commands that show, publish and export a trained model."""

from argparse import Namespace
from dataclasses import replace

from hf_tl.config import READING, SOURCE, DataConfig
from hf_tl.errors import ConfigError
from hf_tl.parser import ANY_MODEL, COUNT, FORMAT, MODEL, PORT, Parser, own_values
from hf_tl.ranges import SHARE

ALL = "all"
"""Value of `--format` for every format."""


def demo_parser() -> Parser:
    """Make the parser of `hf-tl demo`."""
    parser = Parser("demo", "Serve a web page that classifies images and shows activation maps.")
    parser.add_argument("name", metavar="MODEL", help=ANY_MODEL)
    parser.add_argument("--revision", metavar="REVISION", help="branch, tag or commit on the Hub (default: main)")
    parser.add_argument("--server_name", metavar="ADDRESS", default="127.0.0.1", help="address to listen on")
    parser.add_flag("server_port", "port to listen on (default: the first free one from 7860)", PORT)
    return parser


def demo(options: Namespace) -> None:
    """Serve the demo until Ctrl-C."""
    from hf_tl.backbones.candidates import check_revision
    from hf_tl.demo.demo import launch

    values = own_values(options)
    check_revision(values["name"], values["revision"])
    launch(**values)


def push_parser() -> Parser:
    """Make the parser of `hf-tl push`."""
    parser = Parser("push", "Push a trained model with its card to the Hub, in one commit.")
    parser.add_argument("folder", metavar="DIR", help="folder of a trained model")
    parser.add_argument("repository", metavar="USER/NAME", help="repository on the Hub")
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to commit to (default: main)")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead of committing")
    text = "publish the adapter of a training with LoRA alone, in the format of peft"
    parser.add_argument("--adapter_only", action="store_true", help=text)
    parser.add_argument("--space", action="store_true", help="also create a Space that runs the demo of the model")
    text = "name of the Space (default: that of the model)"
    parser.add_argument("--space_name", metavar="USER/NAME", help=text)
    return parser


def push(options: Namespace) -> None:
    """Push a model, with its Space if asked, and print the addresses."""
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
        adapter_only=options.adapter_only,
    )
    print(url)


def _push_with_space(options: Namespace) -> None:
    if options.adapter_only:
        raise ConfigError("--space runs the whole model, and --adapter_only publishes the adapter alone: leave one out")
    if options.create_pr:
        raise ConfigError("--space needs a published model, and --create_pr only opens a pull request: leave one out")
    from hf_tl.demo.space import push_with_space

    names = options.folder, options.repository, options.space_name
    print(*push_with_space(*names, private=options.private or None, revision=options.revision), sep="\n")
    if options.private:
        print("Set the secret HF_TOKEN in the settings of the Space, so that it can read the private model.")


def pull_parser() -> Parser:
    """Make the parser of `hf-tl pull`."""
    parser = Parser("pull", "Download a published model with its card and record.")
    parser.add_argument("repository", metavar="USER/NAME", help="repository on the Hub")
    parser.add_argument("folder", metavar="DIR", help="new folder")
    parser.add_argument("--revision", metavar="REVISION", help="branch, tag or commit (default: main)")
    return parser


def pull(options: Namespace) -> None:
    """Download a model and print its folder."""
    from hf_tl.hub.fetch import pull as pull_folder

    print(pull_folder(options.repository, options.folder, revision=options.revision))


def card_parser() -> Parser:
    """Make the parser of `hf-tl card`."""
    parser = Parser("card", "Write the card of a trained model again from its record.")
    parser.add_argument("folder", metavar="DIR", help="folder of a trained model")
    return parser


def card(options: Namespace) -> None:
    """Write the card and print its path."""
    from hf_tl.publish.save import rewrite_card

    print(rewrite_card(options.folder))


def export_parser() -> Parser:
    """Make the parser of `hf-tl export`."""
    parser = Parser("export", "Export a trained model to a file that runs elsewhere, verified on real images.")
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    text = "file format; all: each that is installed, and how fast each is here"
    parser.add_flag("format", text, replace(FORMAT, choices=(*FORMAT.choices, ALL)), "onnx")
    parser.add_output_dir("the export: a new one (default: one named after the format, in the model's folder)")
    text = "images to verify on (default: the training dataset, if known)"
    parser.add_argument("--dataset", metavar="DATASET", help=text)
    text = "also quantize, and measure the accuracy (onnx and openvino)"
    parser.add_argument("--int8", action="store_true", help=text)
    parser.add_flag("max_int8_loss", "largest loss of accuracy by --int8, as 0.01 (default: any)", SHARE)
    text = "also write a file that takes images of any size and returns probabilities (onnx only)"
    parser.add_argument("--with_preprocessing", action="store_true", help=text)
    parser.add_flag("opset", "version of the operators (onnx only; default: that of torch)", COUNT)
    for name in (*SOURCE, *READING, "include_training_images"):
        parser.add_setting(DataConfig, name)
    parser.add_argument("--overwrite_output_dir", action="store_true", help="replace an earlier export in the folder")
    return parser


def export(options: Namespace) -> None:
    """Export a model and print a summary."""
    from hf_tl.exporting.every_format import export_every_format
    from hf_tl.exporting.export import export as export_model

    values = own_values(options)
    if values["format"] == ALL:
        print(export_every_format(**{name: value for name, value in values.items() if name != "format"}))
    else:
        print(export_model(**values))
