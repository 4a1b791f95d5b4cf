"""What an evaluation reports, in numpy on the host.

Legend: P proteins, S clusters, C classes.
"""

from typing import TypedDict

import numpy as np


class ClassScores(TypedDict):
    """How well one class is recognised."""

    name: str
    count: int
    """Proteins of the class."""
    predicted: int
    """Proteins given the class."""
    precision: float
    """0 when nothing was given the class."""
    recall: float
    """0 when there is no protein of the class."""
    f1: float


class Classification(TypedDict):
    """The scores of the proteins that have a label; in pretraining of residues, as of one protein each."""

    proteins: int
    """Proteins scored."""
    unlabelled: int
    """Proteins without a label: left out of every other number here."""
    accuracy: float
    macro_f1: float
    """Mean F1 over the classes that occur in truth or prediction."""
    majority_share: float
    """Accuracy of always answering the most frequent class of this split."""
    classes: list[ClassScores]
    confusion: list[list[int]]
    """C × C: proteins of class (row) that were given class (column)."""


class Distribution(TypedDict):
    count: int
    mean: float
    min: float
    q25: float
    median: float
    q75: float
    max: float


class Clustering(TypedDict):
    """How the partitioner and the codebook were used on a split."""

    coverage: float
    """Share of residues that belong to a cluster."""
    clusters_per_protein: float
    cluster_sizes: Distribution
    """Residues per cluster."""
    codes_used: int
    """Different codes among all clusters; 0 without a codebook."""
    perplexity: float
    """exp of the entropy of the codes of all clusters, 1 to the codebook's size; 0 without a codebook."""
    codes_used_share: float
    """codes_used / the codebook's size. A split of few clusters cannot use many codes."""
    perplexity_share: float
    """perplexity / the codebook's size."""
    effective_dimension: float
    """Directions in which cluster features differ, 1 to their number of channels (`effective_dimension`)."""
    quantisation_error: float
    """Share of the variance of cluster features that their codes lose (`quantisation_error`); 0 without a
    codebook."""


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 [C, C]: proteins of class (row) that were given class (column)."""
    return np.bincount(truth * num_classes + predicted, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )


def classification(
    truth: np.ndarray,  # int [P], -1 where there is no label
    predicted: np.ndarray,  # int [P]
    class_names: tuple[str, ...],
) -> Classification:
    """Accuracy, macro-F1 and scores per class, over the proteins with a label.

    A class that occurs neither in the truth nor among the predictions has no F1 and is left out of the
    macro average; a class that occurs in one of them only counts with F1 = 0. Raises ValueError without
    labelled proteins or with a label outside the classes.
    """
    labelled = truth != -1
    unlabelled = int(np.sum(~labelled))
    truth, predicted = truth[labelled], predicted[labelled]
    if len(truth) == 0:
        counted = f", only {unlabelled} without a label" if unlabelled else ""
        raise ValueError(f"there are no labelled proteins to score{counted}; choose a split that has some")
    if truth.min() < 0 or truth.max() >= len(class_names):
        raise ValueError(
            f"labels must be 0 to {len(class_names) - 1}, or -1 for none, got {truth.min()} to {truth.max()}"
        )
    return classification_of_confusion(
        confusion_matrix(truth, predicted, len(class_names)), class_names, unlabelled
    )


def classification_of_confusion(
    confusion: np.ndarray,  # int [C, C]
    class_names: tuple[str, ...],
    unlabelled: int = 0,
) -> Classification:
    """The scores that follow from a `confusion_matrix`. Raises ValueError for one that is empty."""
    total = int(confusion.sum())
    if total == 0:
        raise ValueError("there is nothing to score: no residue has one of the standard types")
    correct, count, given = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    precision = correct / np.maximum(given, 1)
    recall = correct / np.maximum(count, 1)
    f1 = 2 * correct / np.maximum(count + given, 1)
    return Classification(
        proteins=total,
        unlabelled=unlabelled,
        accuracy=float(correct.sum() / total),
        macro_f1=float(f1[count + given > 0].mean()),
        majority_share=float(count.max() / total),
        classes=[
            ClassScores(
                name=name,
                count=int(count[i]),
                predicted=int(given[i]),
                precision=float(precision[i]),
                recall=float(recall[i]),
                f1=float(f1[i]),
            )
            for i, name in enumerate(class_names)
        ],
        confusion=confusion.tolist(),
    )


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95% interval of a share that was counted as `hits` of `count` (Wilson's score interval, 1927).

    With p = hits/count and z = 1.96: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n). It stays within
    0 and 1 and is not empty for 0 or all hits. Raises ValueError unless 0 ≤ hits ≤ count and count ≥ 1.
    """
    if count < 1 or not 0 <= hits <= count:
        raise ValueError(f"{hits} of {count} is not a share")
    z = 1.959964  # 97.5% of the normal distribution lie below
    share, square = hits / count, z**2 / count
    centre = (share + square / 2) / (1 + square)
    half = z * np.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def f1_interval(hits: int, count: int, predicted: int) -> tuple[float, float]:
    """The 95% interval of the F1 of a class: `count` proteins, `predicted` given it, `hits` of them rightly.

    Of the count + predicted - hits proteins that are of the class or were given it, hits is a share J, and
    F1 = 2J/(1+J) rises with it: the ends are those of J's interval (`wilson`). Raises ValueError as it does.
    """
    low, high = wilson(hits, count + predicted - hits)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def macro_f1_interval(scores: Classification) -> tuple[float, float]:
    """The 95% interval of macro-F1: what lies between 2.5% and 97.5% of 1,000 bootstrap samples of the
    proteins (Efron, 1979), which are the same in every call."""
    confusion = np.array(scores["confusion"])
    size, total, rng = confusion.shape[0], confusion.sum(), np.random.default_rng(0)
    # Cells that hold a protein are few where classes are many. The last one takes the rest of every draw.
    cells = np.unique([*np.flatnonzero(confusion), confusion.size - 1])
    truth, predicted = np.divmod(cells, size)
    found = []
    for _ in range(1000):
        drawn = rng.multinomial(total, confusion.flat[cells] / total)
        given = np.bincount(truth, drawn, size) + np.bincount(predicted, drawn, size)
        correct = np.bincount(truth, drawn * (truth == predicted), size)
        found.append((2 * correct / np.maximum(given, 1)).sum() / np.count_nonzero(given))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def hits(scores: Classification) -> int:
    """Proteins that were given their own class."""
    return sum(row[i] for i, row in enumerate(scores["confusion"]))


def code_perplexity(codes: np.ndarray) -> float:
    """exp of the entropy of codes (any shape; -1 means none), 0 when there are none."""
    _, counts = np.unique(codes[codes >= 0], return_counts=True)
    if counts.size == 0:
        return 0.0
    p = counts / counts.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def effective_dimension(features: np.ndarray) -> float:
    """exp(-Σ p log p) of features [M, D], p the eigenvalues of their covariance over the sum of these (as
    the effective rank of Roy and Vetterli 2007): 1 where all lie on a line, D where they vary alike in all
    directions; 0 where they do not vary."""
    if len(features) == 0:
        return 0.0
    x = np.asarray(features, np.float64)
    variances = np.clip(
        np.linalg.eigvalsh(np.cov(x, rowvar=False, bias=True).reshape(x.shape[1], -1)), 0, None
    )
    if not variances.sum() > 0:
        return 0.0
    p = variances / variances.sum()
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p))))


def quantisation_error(
    features: np.ndarray,  # [M, D]
    squared_errors: np.ndarray,  # [M]
) -> float:
    """mean |z - e|² / mean |z - z̄|² for features z whose codes e are at `squared_errors` |z - e|²: 0 where
    codes are exact, 1 where they say no more than the mean; 0 where features do not vary."""
    if len(features) == 0:
        return 0.0
    spread = float(np.asarray(features, np.float64).var(axis=0).sum())
    return float(squared_errors.mean(dtype=np.float64) / spread) if spread > 0 else 0.0


def distribution(values: np.ndarray) -> Distribution:
    """Mean and quartiles; zeros when there are no values."""
    if values.size == 0:
        return Distribution(count=0, mean=0.0, min=0.0, q25=0.0, median=0.0, q75=0.0, max=0.0)
    low, q25, median, q75, high = (float(q) for q in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
    return Distribution(
        count=values.size, mean=float(values.mean()), min=low, q25=q25, median=median, q75=q75, max=high
    )


def clustering(
    cluster_sizes: np.ndarray,  # int [P, S], 0 where there is no cluster
    codes: np.ndarray,  # int [P, S], -1 where there is none
    num_residues: int,
    *,
    num_codes: int = 0,
    features: np.ndarray | None = None,  # [P, S, D]
    squared_errors: np.ndarray | None = None,  # [P, S]
) -> Clustering:
    """Coverage, cluster sizes and use of the codebook over the proteins of a split.

    `num_residues` counts the residues that could be assigned: real ones with all four atoms. `num_codes` is
    the codebook's size. Without `features` and `squared_errors` what is said of them is 0.
    """
    real = cluster_sizes[cluster_sizes > 0]
    used, perplexity = len(np.unique(codes[codes >= 0])), code_perplexity(codes)
    found = None if features is None else features[cluster_sizes > 0]
    error = 0.0
    if found is not None and squared_errors is not None and used:
        error = quantisation_error(found, squared_errors[cluster_sizes > 0])
    return Clustering(
        coverage=float(cluster_sizes.sum() / max(num_residues, 1)),
        clusters_per_protein=float(real.size / max(len(cluster_sizes), 1)),
        cluster_sizes=distribution(real),
        codes_used=used,
        perplexity=perplexity,
        codes_used_share=used / max(num_codes, 1),
        perplexity_share=perplexity / max(num_codes, 1),
        effective_dimension=0.0 if found is None else effective_dimension(found),
        quantisation_error=error,
    )
