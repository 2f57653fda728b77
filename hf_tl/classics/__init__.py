"""timm versions of AlexNet, ZFNet and GoogLeNet, which timm lacks; importing this package registers them.

| name | year | paper | weights |
|---|---|---|---|
| `alexnet` | 2012 | Krizhevsky, Sutskever and Hinton, NeurIPS 2012; the variant of arXiv 1404.5997 | torchvision's |
| `zfnet` | 2013 | Zeiler and Fergus, arXiv 1311.2901 | none public |
| `googlenet`, `inception_v1` | 2014 | Szegedy et al., arXiv 1409.4842; with batch normalization | torchvision's |

>>> import hf_tl.classics
>>> import timm
>>> timm.create_model("googlenet", num_classes=10, in_chans=1).get_classifier()
Linear(in_features=1024, out_features=10, bias=True)

Once this package is imported, plain transformers loads checkpoints of these architectures.
"""

from hf_tl.classics.alexnet import AlexNet, alexnet
from hf_tl.classics.googlenet import GoogLeNet, googlenet, inception_v1
from hf_tl.classics.zfnet import ZFNet, zfnet

__all__ = ["AlexNet", "GoogLeNet", "ZFNet", "alexnet", "googlenet", "inception_v1", "zfnet"]
