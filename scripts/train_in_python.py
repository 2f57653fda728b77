"""Train, look at the result, and use the model, in Python; without arguments on the demo's weights and digits.

`python scripts/train_in_python.py photos --model timm/resnet50.a1_in1k --strategy finetune` trains on a folder with a
subfolder of images for each class.
"""

import argparse

import hf_tl


def main() -> None:
    """Train by a strategy, then predict some test images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="?", default="digits", help="folder, table, Hub id or digits")
    parser.add_argument("--model", default="demo", help="Hub id, folder or timm:ARCH")
    parser.add_argument("--strategy", default="transfer", help="transfer, finetune, gradual, full, scratch or auto")
    parser.add_argument("--epochs", type=float, default=None, help="epochs (default: from the number of images)")
    parser.add_argument("--output_dir", default="runs/python", help="folder for the model and its card")
    options = parser.parse_args()

    data = hf_tl.load_data(options.dataset)
    print(*data.describe(), sep="\n")

    result = hf_tl.train(
        options.model,
        data,
        options.strategy,
        epochs=options.epochs,
        output_dir=options.output_dir,
        overwrite_output_dir=True,
        seed=0,
    )
    print(f"test accuracy {result.test_accuracy:.1%}")
    for phase in result.record.phases:
        print(f"{phase.recipe.phrase}: trained {', '.join(phase.trained_stages)}")

    images = data.splits["test"].select(range(5))
    predictions = hf_tl.predict(result.output_dir, images["image"][:])
    for row, prediction in zip(images, predictions, strict=True):
        print(f"{data.labels[row['label']]}: predicted {prediction.label} ({prediction.probabilities[0]:.0%})")


if __name__ == "__main__":
    main()
