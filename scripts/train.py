"""Train an image classifier: `accelerate launch scripts/train.py [flags]`, the same as `hf-tl train [flags]`.

Without flags: transfer learning of an ImageNet EfficientNet-Lite0 on scikit-learn's digits, about a minute on two
cores, with a test accuracy of at least 94%. `--help` lists the flags.
"""

import sys

from hf_tl.__main__ import command

if __name__ == "__main__":
    command(["train", *sys.argv[1:]])
