"""Whether the clusters of a model find functional sites: in clusters, in important ones, better than what?

Clusters are compared with clusters of the same sizes that grew at random, and the importance of residues with
how central they lie, which is known to go with function. Legend: L residues of a protein, S clusters, P
proteins, R draws.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from partoken_jax.interpret.bootstrap import mean_estimate, ratio_estimate
from partoken_jax.interpret.enrichment import fisher_enrichment
from partoken_jax.interpret.random_clusters import grow_random
from partoken_jax.proteins import DataError, Protein
from partoken_jax.proteins.neighbours import neighbour_table
from partoken_jax.training.trained import Prediction, TrainedModel

CONTACT = 10.0
"""Å between CA atoms of two residues in contact."""
COVERAGES = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of a protein's residues at which recall is reported."""
LAYERS = 5
"""Of residues by their closeness to the centre."""
RANKINGS = ("importance", "contacts", "centre")
"""What residues are ranked by: the importance of their cluster, and two measures of how central they lie."""


def residue_importance(
    clusters: np.ndarray,  # int [L], -1 where a residue is in none
    importances: np.ndarray,  # [S]
) -> np.ndarray:
    """float64 [L]: importance of each residue's cluster, 0 outside."""
    return np.where(clusters >= 0, np.append(importances, 0.0)[clusters], 0.0)


def closeness_to_centre(ca: np.ndarray) -> np.ndarray:
    """[L]: minus the distance in Å of each CA atom, [L, 3], from their mean."""
    return -np.linalg.norm(ca - ca.mean(axis=0), axis=1)


def contact_number(ca: np.ndarray) -> np.ndarray:
    """int [L]: how many other CA atoms, [L, 3], lie within `CONTACT` of each."""
    distances = np.linalg.norm(ca[:, None] - ca, axis=-1)
    return np.asarray((distances < CONTACT).sum(axis=1) - 1)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive, bool [L], scores higher than another residue; equal scores count half.

    (Σ ranks of the positives - n₁(n₁+1)/2) / (n₁n₀), the statistic of Mann and Whitney (1947) over all pairs.
    Raises ValueError where all or none are positive.
    """
    number = int(positive.sum())
    pairs = number * (len(positive) - number)
    if pairs == 0:
        raise ValueError("there are no pairs of a positive and another residue")
    ranks = float(rankdata(scores)[positive].sum())
    return (ranks - number * (number + 1) / 2) / pairs


def recall_at(scores: np.ndarray, positive: np.ndarray, share: float) -> float:
    """Share of the positives, bool [L], among the `share` of residues that score highest.

    Where equal scores straddle the limit, what is expected when they are ordered at random. Raises ValueError
    without positives.
    """
    if not positive.any():
        raise ValueError("there are no positives to recall")
    ordered, kept = np.sort(scores), share * len(scores)
    above = len(scores) - np.searchsorted(ordered, scores, side="right")
    equal = len(scores) - above - np.searchsorted(ordered, scores, side="left")
    return float(np.clip((kept - above) / equal, 0, 1)[positive].mean())


def expected_by_layer(
    chosen: np.ndarray,  # bool [L]
    positive: np.ndarray,  # bool [L]
    depth: np.ndarray,  # [L]
) -> float:
    """How many positives are expected among the chosen if these were drawn at random from residues of their
    depth: Σ over `LAYERS` layers of equally many residues by depth of chosen · positive / residues."""
    layer = (rankdata(depth, method="ordinal") - 1) * LAYERS // len(depth)
    residues, taken, held = (
        np.bincount(layer, weights, LAYERS) for weights in (np.ones(len(depth)), chosen, positive)
    )
    return float((taken * held / np.maximum(residues, 1)).sum())


class SiteCounts(NamedTuple):
    """What is counted in one protein."""

    residues: int
    """Those with all atoms; no others count."""
    covered: int
    """Of them, in a cluster."""
    sites: int
    """Of them, catalytic."""
    in_cluster: int
    """Catalytic residues in a cluster."""
    in_top: int
    """In the most important cluster."""
    random_in_cluster: np.ndarray
    """int [R]: in a cluster that grew at random."""
    expected_by_layer: float
    """Catalytic residues in a cluster if clusters held any residues as close to the centre."""
    random_in_top: np.ndarray
    """int [R]: in the random cluster of the size of the most important one."""
    auroc: dict[str, float]
    """By ranking, of `RANKINGS`."""
    clusters_auroc: dict[str, float]
    """How central clusters lie, by each measure of it: `auroc` of being in one, 0.5 without clusters."""
    recall: dict[str, list[float]]
    """By ranking, at each of `COVERAGES`."""
    tokens: np.ndarray
    """int [S'] of the clusters that exist; -1 where they have none."""
    holds: np.ndarray
    """bool [S']: the cluster holds a catalytic residue."""


def count_sites(
    protein: Protein, said: Prediction, sites: np.ndarray, *, neighbours: int, draws: int, seed: int
) -> SiteCounts:
    """Counts catalytic residues in the clusters of a protein, and in clusters that grew at random.

    Args:
      protein: of L residues.
      said: what the model says of it.
      sites: indices of its catalytic residues.
      neighbours: K, nearest residues over which clusters grow; as the model has it.
      draws: R, times that random clusters are drawn.
      seed: of the draws.

    Raises ValueError where all or none of the complete residues are catalytic, DataError where random
    clusters do not fit.
    """
    complete, ca = protein.complete, protein.backbone[:, 1]
    site = np.zeros(len(protein), bool)
    site[sites] = True
    site &= complete
    there = np.flatnonzero(np.bincount(said.clusters + 1, minlength=len(said.seeds) + 1)[1:])
    sizes = [int((said.clusters == cluster).sum()) for cluster in there]
    top = int(np.argmax(said.importances[there])) if there.size else -1
    grown = grow_random(neighbour_table(ca, complete, neighbours), sizes, draws, np.random.default_rng(seed))
    scores = {
        "importance": residue_importance(said.clusters, said.importances)[complete],
        "contacts": contact_number(ca[complete]),
        "centre": closeness_to_centre(ca[complete]),
    }
    at, covered = site[complete], said.clusters[complete] >= 0
    return SiteCounts(
        residues=int(complete.sum()),
        covered=int((said.clusters >= 0).sum()),
        sites=int(site.sum()),
        in_cluster=int((said.clusters[site] >= 0).sum()),
        in_top=int((said.clusters[site] == there[top]).sum()) if there.size else 0,
        random_in_cluster=(grown[:, site] >= 0).sum(axis=1),
        expected_by_layer=expected_by_layer(covered, at, scores["centre"]),
        random_in_top=(grown[:, site] == top).sum(axis=1) if there.size else np.zeros(draws, int),
        auroc={name: auroc(scores[name], at) for name in RANKINGS},
        clusters_auroc={
            name: auroc(scores[name], covered) if 0 < covered.sum() < len(covered) else 0.5
            for name in RANKINGS[1:]
        },
        recall={name: [recall_at(scores[name], at, share) for share in COVERAGES] for name in RANKINGS},
        tokens=said.codes[there],
        holds=np.array([bool(site[said.clusters == cluster].any()) for cluster in there], bool),
    )


def count_all(
    model: TrainedModel, proteins: Sequence[Protein], sites: Mapping[str, np.ndarray], draws: int = 1000
) -> dict[str, SiteCounts]:
    """`count_sites` by name, of every protein with sites among its complete residues; the others are not
    predicted. Random draws go by the name, not by
    the company.

    Raises DataError for a model that has no clusters, and as `TrainedModel.predict`.
    """
    if model.config.model.kind != "partoken":
        raise DataError(f"{model.source}: has no clusters that could hold sites; give a ParToken")
    chosen = [
        protein
        for protein in proteins
        if protein.name in sites and 0 < protein.complete[sites[protein.name]].sum() < protein.complete.sum()
    ]
    return {
        protein.name: count_sites(
            protein,
            said,
            sites[protein.name],
            neighbours=model.config.data.neighbours,
            draws=draws,
            seed=zlib.crc32(protein.name.encode()),
        )
        for protein, said in zip(chosen, model.predict(chosen), strict=True)
    }


def site_report(counts: Sequence[SiteCounts], groups: np.ndarray | None = None) -> dict[str, Any]:
    """What the counts of P proteins say together; every number with its 95% interval over proteins.

    Args:
      counts: one per protein.
      groups: int [P], of proteins that are related and no independent evidence; without it, all count as
        unrelated.

    Returns:
      `proteins`, `groups`, `residues`, `sites`, `draws`, `coverage`; of `clusters` and `top` the share of
      catalytic residues in them, the same of `random` clusters (mean over the draws), their ratio
      `enrichment`, and `p` and `p_fewer`, the shares of draws with as many or more, and as many or fewer;
      `by_layer`, the share and the enrichment against residues as close to the centre; `auroc` and `recall`
      (at `coverages`) by ranking, means over proteins; `auroc_difference`, importance minus each of the
      others; `clusters_auroc`, how central the clusters themselves lie, by each of these; `tokens`,
      `fisher_enrichment` of clusters that hold a catalytic residue.

    Raises ValueError for no proteins.
    """
    if not counts:
        raise ValueError("none of the proteins has a catalytic residue that M-CSA lists")
    group = np.arange(len(counts)) if groups is None else np.asarray(groups)
    residues, sites = (np.array([getattr(c, name) for c in counts]) for name in ("residues", "sites"))
    rocs = {name: np.array([c.auroc[name] for c in counts]) for name in RANKINGS}
    recalls = {name: np.array([c.recall[name] for c in counts]).T for name in RANKINGS}
    in_cluster = np.array([c.in_cluster for c in counts])
    by_layer = np.array([c.expected_by_layer for c in counts])
    tokens = np.concatenate([c.tokens for c in counts])
    holds = np.concatenate([c.holds for c in counts])
    return {
        "proteins": len(counts),
        "groups": len(np.unique(group)),
        "residues": int(residues.sum()),
        "sites": int(sites.sum()),
        "draws": len(counts[0].random_in_cluster),
        "coverage": ratio_estimate(np.array([c.covered for c in counts]), residues, group),
        "clusters": _against_random(
            in_cluster,
            np.array([c.random_in_cluster for c in counts]),
            sites,
            group,
        ),
        "top": _against_random(
            np.array([c.in_top for c in counts]), np.array([c.random_in_top for c in counts]), sites, group
        ),
        "by_layer": {
            "random": float(by_layer.sum() / sites.sum()),
            "enrichment": ratio_estimate(in_cluster, by_layer, group) if by_layer.sum() > 0 else None,
        },
        "auroc": {name: mean_estimate(rocs[name], group) for name in RANKINGS},
        "auroc_difference": {
            name: mean_estimate(rocs["importance"] - rocs[name], group) for name in RANKINGS[1:]
        },
        "clusters_auroc": {
            name: mean_estimate(np.array([c.clusters_auroc[name] for c in counts]), group)
            for name in RANKINGS[1:]
        },
        "recall": {name: [mean_estimate(values, group) for values in recalls[name]] for name in RANKINGS},
        "coverages": list(COVERAGES),
        "tokens": [row._asdict() for row in fisher_enrichment(tokens, holds.astype(int), {1: "site"})],
    }


def _against_random(
    found: np.ndarray,  # int [P]
    random: np.ndarray,  # int [P, R]
    sites: np.ndarray,  # int [P]
    groups: np.ndarray,
) -> dict[str, Any]:
    """The share of catalytic residues that were found, and how it compares with random clusters."""
    expected = random.mean(axis=1)
    total, drawn = found.sum(), random.sum(axis=0)
    return {
        "share": ratio_estimate(found, sites, groups),
        "random": float(expected.sum() / sites.sum()),
        "enrichment": ratio_estimate(found, expected, groups) if expected.sum() > 0 else None,
        "p": (1 + int((drawn >= total).sum())) / (1 + len(drawn)),
        "p_fewer": (1 + int((drawn <= total).sum())) / (1 + len(drawn)),
    }
