"""What an evaluation can tell beside its scores: from a model and the proteins that it was evaluated on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from partoken_jax.interpret.annotate import Found, annotate_found
from partoken_jax.interpret.annotation import Annotation
from partoken_jax.interpret.codebook_page import CodebookUse, write_codebook_page
from partoken_jax.interpret.details import Details, details
from partoken_jax.interpret.details_files import LIMIT, write_details
from partoken_jax.interpret.gallery import summary, write_gallery
from partoken_jax.interpret.mcsa import match_sites, mcsa_file, read_mcsa
from partoken_jax.interpret.pages import write_page
from partoken_jax.interpret.sites import count_all, site_report
from partoken_jax.interpret.write import plain_name
from partoken_jax.proteins import DataError, ProteinDataset
from partoken_jax.training.evaluate import EvaluationReport
from partoken_jax.training.trained import TrainedModel


def write_evaluated_details(
    folder: Path, model: TrainedModel, dataset: ProteinDataset, report: EvaluationReport
) -> None:
    """Writes the details of an evaluation, whose report has the labels as the model counts them, and the page
    of the codebook into a folder, which is made where there is none.

    Raises DataError for a model that was only pretrained, and OSError where a file cannot be written.
    """
    model.require_classifier()
    found = (Found(protein, None) for protein in dataset.proteins)
    rows: Any = report["predictions"]
    labels = {row["name"]: row["label"] for row in rows}
    annotations = list(annotate_found(model, found, None))
    told = details(annotations, np.array([labels[a.protein.name] for a in annotations]))
    write_details(folder, told)
    if told.codes:
        _write_codebook(folder, annotations, told)


def _write_codebook(folder: Path, annotations: Sequence[Annotation], told: Details) -> None:
    """Writes codebook.html, with the true classes that go with tokens, and pages of the proteins it shows."""
    use = CodebookUse()
    stems = [f"{place}_{plain_name(annotation.protein.name)}" for place, annotation in enumerate(annotations)]
    for annotation, stem in zip(annotations, stems, strict=True):
        use.add(annotation, stem)
    shown = {example.stem for token in use.tokens.values() for example in token.examples}
    linked = [(a, stem) for a, stem in zip(annotations, stems, strict=True) if stem in shown]
    for annotation, stem in linked:
        write_page(annotation, folder, stem)
    write_gallery([summary(annotation, stem) for annotation, stem in linked], folder, with_codebook=True)
    write_codebook_page(use, folder, [row for row in told.enrichment if row.q < LIMIT])


def evaluated_sites(model: TrainedModel, dataset: ProteinDataset) -> dict[str, Any]:
    """`site_report` of the proteins that M-CSA lists, with `numbering`, `asked`, `matched` and
    `unmatched` of `mcsa.Matched`; all proteins count as unrelated.

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
        "numbering": matched.numbering,
        "asked": matched.asked,
        "matched": matched.matched,
        "unmatched": matched.unmatched,
        **site_report(list(counts.values())),
    }
