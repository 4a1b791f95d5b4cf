"""What an evaluation can tell beside its scores: from a model and the proteins that it was evaluated on."""

from typing import Any

import numpy as np

from partoken_jax.interpret.annotate import Found, annotate_found
from partoken_jax.interpret.details import Details, details
from partoken_jax.interpret.mcsa import match_sites, mcsa_file, read_mcsa
from partoken_jax.interpret.sites import count_all, site_report
from partoken_jax.proteins import DataError, ProteinDataset
from partoken_jax.training.evaluate import EvaluationReport
from partoken_jax.training.trained import TrainedModel


def evaluated_details(model: TrainedModel, dataset: ProteinDataset, report: EvaluationReport) -> Details:
    """The details of an evaluation, whose report has the labels as the model counts them.

    Raises DataError for a model that was only pretrained.
    """
    model.require_classifier()
    found = (Found(protein, None) for protein in dataset.proteins)
    rows: Any = report["predictions"]
    labels = {row["name"]: row["label"] for row in rows}
    annotations = list(annotate_found(model, found, None))
    return details(annotations, np.array([labels[a.protein.name] for a in annotations]))


def evaluated_sites(model: TrainedModel, dataset: ProteinDataset) -> dict[str, Any]:
    """`site_report` of the proteins that M-CSA lists, with `asked`, `matched` and `unmatched` of
    `mcsa.Matched`; all proteins count as unrelated.

    Raises DataError where M-CSA is not installed, or lists none of them.
    """
    matched = match_sites(read_mcsa(mcsa_file()), dataset.proteins)
    counts = count_all(model, list(dataset.proteins), matched.sites)
    if not counts:
        raise DataError(
            f"{dataset.source}: none of its proteins has a catalytic residue that M-CSA lists; leave --sites "
            "out, or evaluate on chains of the PDB that are called as in 1abc_A"
        )
    return {
        "asked": matched.asked,
        "matched": matched.matched,
        "unmatched": matched.unmatched,
        **site_report(list(counts.values())),
    }
