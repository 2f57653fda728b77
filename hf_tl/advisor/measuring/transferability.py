"""Transferability scores: how well features, or pretrained classes, separate the classes of new images.

The functions are pure: arrays in, a number out, without training or hyperparameters. Each takes seconds where a probe
takes longer. None is an accuracy: they rank networks on the same images.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

Array = NDArray[np.float64]

TOLERANCE, STEPS = 1e-6, 1_000
"""Tolerance (relative change of alpha / beta) and largest number of steps of LogME's fixed-point iteration."""
LEAST = 1e-10
"""Smallest divisor: the evidence of a class that is fitted exactly is unbounded."""


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """Compute the log of the maximum evidence per image, averaged over classes (LogME; higher is better).

    The one-vs-rest targets of each class are a linear function of the features, with weights of N(0, 1 / alpha) and
    noise of N(0, 1 / beta). The evidence is the density of the targets with the weights integrated out, at the alpha
    and beta that maximize it (You et al. 2021, https://arxiv.org/abs/2102.11005). The fixed-point iteration on singular
    values is that of You et al. 2022 (https://arxiv.org/abs/2110.10545). Their code returns another value with fewer
    images than values, because it omits the part of the determinant outside the span of the singular vectors.

    Args:
        features: Features of shape (images, values).
        labels: Class indices (images,).

    >>> features = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> logme(features, [0, 0, 1, 1]) > logme(features, [0, 1, 0, 1])
    True
    """
    values, classes = np.asarray(features, np.float64), np.asarray(labels)
    vectors, singular, _ = np.linalg.svd(values, full_matrices=False)
    targets = [(classes == label).astype(np.float64) for label in np.unique(classes)]
    return float(np.mean([_evidence(target, vectors, singular**2) for target in targets]))


def _evidence(target: Array, vectors: Array, squares: Array) -> float:
    """Compute the log evidence per image of a target (images,), from the SVD of the features."""
    images = len(target)
    projected = (vectors.T @ target) ** 2
    outside = max(0.0, float(target @ target - projected.sum()))
    alpha = beta = 1.0
    for _ in range(STEPS):
        ratio = alpha / beta
        used = float((squares / (squares + ratio)).sum())
        weights = float((squares * projected / (squares + ratio) ** 2).sum())
        residual = float((projected * (ratio / (squares + ratio)) ** 2).sum()) + outside
        alpha, beta = max(used, LEAST) / max(weights, LEAST), max(images - used, LEAST) / max(residual, LEAST)
        if abs(alpha / beta - ratio) <= TOLERANCE * ratio:
            break
    # prior and posterior differ only in the span of the singular vectors
    evidence = (
        images * np.log(beta)
        - float(np.log1p(beta / alpha * squares).sum())
        - beta * residual
        - alpha * weights
        - images * np.log(2 * np.pi)
    )
    return evidence / (2 * images)


def h_score(features: ArrayLike, labels: ArrayLike, shrinkage: float | None = None) -> float:
    """Compute the H-score tr(cov(f)^-1 cov(E[f | y])), the feature variance that classes explain (higher is better).

    It lies between 0 and the number of classes minus one (Bao et al. 2019, https://arxiv.org/abs/2212.10082). With
    fewer images than values the covariance is singular, and seems to explain any labels. It is therefore shrunk towards
    a multiple of the identity (Ibrahim et al. 2021, https://arxiv.org/abs/2110.06893), by the estimate of Ledoit and
    Wolf.

    Args:
        features: Features of shape (images, values).
        labels: Class indices (images,).
        shrinkage: From 0, the score of Bao et al., to 1; the estimate of Ledoit and Wolf by default.

    >>> round(h_score([[0.0], [0.0], [1.0], [1.0]], [0, 0, 1, 1], shrinkage=0), 6)
    1.0
    """
    from sklearn.covariance import ledoit_wolf, shrunk_covariance

    values, classes = np.asarray(features, np.float64), np.asarray(labels)
    centered = values - values.mean(0)
    if shrinkage is None:
        covariance, shrinkage = ledoit_wolf(centered, assume_centered=True)
    else:
        covariance = shrunk_covariance(centered.T @ centered / len(centered), shrinkage)
    if not covariance.any():
        return 0.0  # constant features explain nothing
    names, counts = np.unique(classes, return_counts=True)
    means = np.stack([centered[classes == name].mean(0) for name in names])
    # the rank of cov(E[f | y]) is below the number of classes
    inverted = np.linalg.solve(covariance, means.T) if shrinkage > 0 else np.linalg.pinv(covariance) @ means.T
    return float((1 - shrinkage) * (counts / counts.sum() * (means.T * inverted).sum(0)).sum())


def nce(source_labels: ArrayLike, labels: ArrayLike) -> float:
    """Compute the negative conditional entropy -H(Y | Z) of the labels given the source labels (NCE; higher is better).

    In nats, at most 0. It is 0 where each source class holds images of one class only (Tran et al. 2019,
    https://arxiv.org/abs/1908.08142).

    Args:
        source_labels: Predictions of the pretrained head, as class indices (images,).
        labels: Class indices (images,).

    >>> nce([7, 7, 9, 9], [0, 0, 1, 1]) == 0, round(nce([7, 7, 7, 7], [0, 0, 1, 1]), 4)
    (True, -0.6931)
    """
    _, sources = np.unique(np.asarray(source_labels), return_inverse=True)
    _, classes = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.zeros((sources.max() + 1, classes.max() + 1))
    np.add.at(counts, (sources, classes), 1)
    own = counts[sources, classes] / counts.sum(1)[sources]
    return float(np.log(own).mean()) + 0.0


def leep(source_log_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Compute the mean log probability of the labels under the pretrained head (LEEP; higher is better).

    The empirical predictor draws a source class from the head's probabilities, then a class from its frequency among
    the images of that source class (Nguyen et al. 2020, https://arxiv.org/abs/2002.12462). In nats, at most 0.

    Args:
        source_log_probabilities: Log probabilities of shape (images, source classes).
        labels: Class indices (images,).

    >>> round(leep(np.log([[0.5, 0.5]] * 4), [0, 0, 1, 1]), 4)
    -0.6931
    """
    log_p = np.asarray(source_log_probabilities, np.float64)
    _, classes = np.unique(np.asarray(labels), return_inverse=True)
    log_joint = np.stack([logsumexp(log_p[classes == label], axis=0) for label in range(classes.max() + 1)])
    with np.errstate(invalid="ignore"):  # a source class without images
        log_conditional = log_joint - logsumexp(log_joint, axis=0)
    log_conditional = np.where(np.isnan(log_conditional), -np.inf, log_conditional)
    return float(logsumexp(log_p + log_conditional[classes], axis=1).mean())
