"""Annotations as records for files: JSON of a protein, rows of tables, arrays of features.

docs/guide/annotate.md says what every field means. Where BioBlobs writes the same thing, the name is theirs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from partoken_jax.interpret.annotation import Annotation
from partoken_jax.proteins.structures import path_of

SCHEMA = "partoken.annotation/1"
Row = dict[str, Any]
Columns = dict[str, type]

CLUSTERS: Columns = {
    "id": str,
    "rank": int,
    "importance": float,
    "size": int,
    "seed": str,
    "residues": str,
    "token": int,
    "distance": float,
}
"""The columns of clusters.csv."""
RESIDUES: Columns = {
    "id": str,
    "chain": str,
    "number": int,
    "insertion_code": str,
    "label_number": int,
    "type": str,
    "complete": int,
    "cluster": int,
    "token": int,
    "importance": float,
    "plddt": float,
}
"""The columns of residues.csv."""


def prediction_columns(class_names: Sequence[str]) -> Columns:
    """The columns of predictions.csv for a model of these classes."""
    return {
        "id": str,
        "file": str,
        "model_number": int,
        "chain": str,
        "residues": int,
        "true_label": str,
        "pred_label": str,
        "top1_prob": float,
        "num_valid_blobs": int,
        "coverage": float,
        **{f"prob_{name}": float for name in class_names},
    }


def as_json(annotation: Annotation) -> dict[str, Any]:
    """All of an annotation but its features, as JSON."""
    protein, origin, clusters = annotation.protein, annotation.origin, annotation.clusters
    by_index = sorted(clusters, key=lambda cluster: cluster.index)
    true = annotation.true_class
    numbers = residue_numbers(annotation)
    predicted_structure = origin is not None and not np.isnan(origin.plddt).all()
    return {
        "schema": SCHEMA,
        "name": protein.name,
        "file": _file(annotation),
        "model_number": None if origin is None else origin.model,
        "chain": protein.chain,
        "label_chain": None if origin is None else origin.label_chain,
        "residue_num": len(protein),
        "sequence": protein.sequence,
        "prediction": annotation.predicted,
        "prediction_name": annotation.label,
        "prediction_title": annotation.title,
        "true_label": None if true not in annotation.class_names else annotation.class_names.index(true),
        "is_correct": None if true is None else annotation.label == true,
        "probabilities": annotation.probabilities.tolist(),
        "class_names": list(annotation.class_names),
        "confidence": annotation.confidence,
        "classification_type": "single-label",
        "coverage": annotation.coverage,
        "num_valid_blobs": len(clusters),
        "blob_sizes": [cluster.size for cluster in by_index],
        "importance_scores": [cluster.importance for cluster in by_index],
        "importance_concentration": importance_concentration(annotation),
        "blob_indices": [cluster.index for cluster in clusters],
        "blob_importance": [cluster.importance for cluster in clusters],
        "blob_codebook_indices": [cluster.token for cluster in clusters],
        "blob_composition": {str(cluster.index): cluster.residues.tolist() for cluster in clusters},
        "blobs": [
            {
                "rank": cluster.rank,
                "blob": cluster.index,
                "attention": cluster.importance,
                "size": cluster.size,
                "seed": cluster.seed,
                "residue_indices": cluster.residues.tolist(),
                "residue_numbers": [numbers[i] for i in cluster.residues],
                "token": cluster.token,
                "distance": cluster.distance,
            }
            for cluster in clusters
        ],
        "residues": {
            "number": protein.residue_numbers.tolist(),
            "insertion_code": [code.strip() for code in protein.insertion_codes],
            "label_number": _label_numbers(annotation),
            "type": protein.sequence,
            "complete": protein.complete.tolist(),
            "plddt": _rounded(origin.plddt) if origin is not None and predicted_structure else None,
            "rank": annotation.rank_of_residue.tolist(),
        },
    }


def importance_concentration(annotation: Annotation) -> float | None:
    """1 - H / log n, H the entropy of the importances of n clusters: 0 where all count the same, 1 where one
    counts alone. As BioBlobs has it; None with fewer than two clusters, where it is not defined."""
    if len(annotation.clusters) < 2:
        return None
    weights = np.array([cluster.importance for cluster in annotation.clusters])
    entropy = -np.sum(weights * np.log(weights, where=weights > 0, out=np.zeros_like(weights)))
    return float(1 - entropy / np.log(len(weights)))


def residue_numbers(annotation: Annotation) -> list[str]:
    """Numbers of the residues as their author has them, with insertion codes: "52", "52A"."""
    protein = annotation.protein
    pairs = zip(protein.residue_numbers.tolist(), protein.insertion_codes, strict=True)
    return [f"{number}{code.strip()}" for number, code in pairs]


def prediction_row(annotation: Annotation) -> Row:
    """The row of a protein in predictions.csv."""
    protein, origin = annotation.protein, annotation.origin
    values = (
        protein.name,
        _file(annotation),
        None if origin is None else origin.model,
        protein.chain,
        len(protein),
        annotation.true_class,
        annotation.label,
        annotation.confidence,
        len(annotation.clusters),
        annotation.coverage,
        *annotation.probabilities.tolist(),
    )
    return dict(zip(prediction_columns(annotation.class_names), values, strict=True))


def cluster_rows(annotation: Annotation) -> list[Row]:
    """The rows of a protein in clusters.csv, one for each cluster, the most important first."""
    numbers = residue_numbers(annotation)
    rows = (
        (
            annotation.protein.name,
            cluster.rank,
            cluster.importance,
            cluster.size,
            numbers[cluster.seed],
            " ".join(numbers[i] for i in cluster.residues),
            cluster.token,
            cluster.distance,
        )
        for cluster in annotation.clusters
    )
    return [dict(zip(CLUSTERS, row, strict=True)) for row in rows]


def residue_rows(annotation: Annotation) -> list[Row]:
    """The rows of a protein in residues.csv, one for each residue."""
    protein, origin = annotation.protein, annotation.origin
    num = len(protein)
    clusters = {cluster.rank: cluster for cluster in annotation.clusters}
    of_residue = [clusters.get(rank) for rank in annotation.rank_of_residue.tolist()]
    columns = (
        [protein.name] * num,
        [protein.chain] * num,
        protein.residue_numbers.tolist(),
        [code.strip() for code in protein.insertion_codes],
        _label_numbers(annotation),
        protein.sequence,
        protein.complete.astype(int).tolist(),
        [None if cluster is None else cluster.rank for cluster in of_residue],
        [None if cluster is None else cluster.token for cluster in of_residue],
        [0.0 if cluster is None else cluster.importance for cluster in of_residue],
        [None] * num if origin is None else _rounded(origin.plddt),
    )
    return [dict(zip(RESIDUES, row, strict=True)) for row in zip(*columns, strict=True)]


def features(annotation: Annotation) -> dict[str, np.ndarray]:
    """The arrays of a protein in embeddings.npz: of its residues [L, D], of its clusters by rank [S, D], and
    its own [D]."""
    width = annotation.protein_features.shape[0]
    clusters = [cluster.features for cluster in annotation.clusters]
    return {
        "residues": annotation.residue_features.astype(np.float32),
        "clusters": np.array(clusters, np.float32).reshape(-1, width),
        "protein": annotation.protein_features.astype(np.float32),
    }


def _file(annotation: Annotation) -> str | None:
    return path_of(annotation.origin) or None


def _label_numbers(annotation: Annotation) -> list[int | None]:
    if annotation.origin is None:
        return [None] * len(annotation.protein)
    return [number or None for number in annotation.origin.label_numbers.tolist()]


def _rounded(values: np.ndarray) -> list[float | None]:
    """With two places, as files of predictions have them."""
    return [None if np.isnan(value) else round(float(value), 2) for value in values]
