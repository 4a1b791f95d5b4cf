"""What `sites.site_report` found, in words and as a table. Nothing here is decided but by the intervals."""

from collections.abc import Sequence
from typing import Any

from partoken_jax.tables import markdown_table

NAMES = {
    "importance": "importance of the cluster",
    "contacts": "contacts of the residue",
    "centre": "closeness to the centre",
}
"""Of the rankings."""
TAIL = 0.025
"""Of random draws, beyond which clusters are said to differ from them."""
FEW = 20
"""Groups of proteins; of fewer the intervals are too narrow, and the words say so."""
LIMIT = 0.05
"""Of q, below which a token is said to go with catalytic residues."""


def sites_table(report: dict[str, Any]) -> str:
    """The numbers of a report as a Markdown table; 95% intervals in brackets."""
    rows: list[tuple[object, ...]] = []
    for what, name in (("clusters", "any cluster"), ("top", "the most important cluster")):
        row = report[what]
        p = min(1.0, 2 * min(row["p"], row["p_fewer"]))  # of both sides
        sign = "≤" if p <= 2 / (1 + report["draws"]) else "="  # no draw is as far out
        times = "" if row["enrichment"] is None else f", {_shown(row['enrichment'], '.2f')} times"
        rows.append(
            (
                f"catalytic residues in {name}",
                _shown(row["share"], ".1%"),
                f"{row['random']:.1%} in random clusters{times}, p {sign} {p:.3f}",
            )
        )
    layers = report["by_layer"]
    if layers["enrichment"] is not None:
        as_central = f"{layers['random']:.1%} in residues as close to the centre"
        rows.insert(1, ("", "", f"{as_central}, {_shown(layers['enrichment'], '.2f')} times"))
    rows.append(("residues in any cluster", _shown(report["coverage"], ".1%"), ""))
    rows += [
        (f"AUROC of being in a cluster by the {NAMES[name]}", _shown(found, ".3f"), "0.5: as other residues")
        for name, found in report["clusters_auroc"].items()
    ]
    rows += [
        (f"AUROC of the {NAMES[name]}", _shown(found, ".3f"), _difference(report, name))
        for name, found in report["auroc"].items()
    ]
    for place, share in enumerate(report["coverages"]):
        found = {name: _shown(report["recall"][name][place], ".3f") for name in NAMES}
        others = f"{NAMES['contacts']} {found['contacts']}, {NAMES['centre']} {found['centre']}"
        rows.append((f"recall in {share:.0%} of the residues", found["importance"], others))
    sizes = f"{report['proteins']} chains ({report['groups']} groups), {report['sites']} catalytic residues"
    return markdown_table((sizes, "clusters", "in comparison"), rows, "lrl")


def verdict(report: dict[str, Any]) -> str:
    """What holds, in sentences."""
    clusters, top, rocs = report["clusters"], report["top"], report["auroc"]
    differences = report["auroc_difference"]
    said = [
        f"Catalytic residues are {_more(clusters)} in the model's clusters than in clusters of the "
        f"same sizes grown at random: {clusters['share'][0]:.1%} against {clusters['random']:.1%}.",
        f"In the most important cluster they are {_more(top)} than in a random one of its size: "
        f"{top['share'][0]:.1%} against {top['random']:.1%}.",
        f"As a ranking of residues, the importance of their cluster is {_against_chance(rocs['importance'])} "
        f"(AUROC {rocs['importance'][0]:.3f}), {_better(differences['contacts'])} the number of contacts "
        f"({rocs['contacts'][0]:.3f}) and {_better(differences['centre'])} closeness to the centre "
        f"({rocs['centre'][0]:.3f}).",
        f"The clusters themselves lie {_central(report['clusters_auroc']['centre'])} than other residues do "
        f"(AUROC {report['clusters_auroc']['centre'][0]:.3f}).",
        f"Compared with residues as close to the centre, those in clusters are {_more(report['by_layer'])} "
        "catalytic.",
        _tokens(report["tokens"], clusters["share"][0] > 0),
    ]
    if report["groups"] < FEW:
        said.insert(0, f"Only {report['groups']} groups of chains, too few to rely on what follows.")
    return " ".join(said)


def _tokens(rows: Sequence[dict[str, Any]], some_held: bool) -> str:
    """Which tokens go with catalytic residues, some of which clusters hold."""
    if not rows:
        return "The model has no tokens." if some_held else "No cluster holds a catalytic residue."
    found = [row for row in rows if row["q"] < LIMIT]
    if not found:
        smallest = min(row["q"] for row in rows)
        return f"None of {len(rows)} tokens goes with catalytic residues (smallest q {smallest:.2f})."
    named = ", ".join(
        f"{row['token']} ({row['both']} of {row['of_token']}, {row['ratio']:.1f} times)" for row in found[:5]
    )
    more = "" if len(found) <= 5 else ", the five with the smallest p first:"
    return (
        f"Clusters of {len(found)} of {len(rows)} tokens hold a catalytic residue more often than others "
        f"(q < {LIMIT}){more} {named}."
    )


def _more(row: dict[str, Any]) -> str:
    """The interval over proteins has to say so, and the rank among random draws where there is one."""
    if row["enrichment"] is None:
        return "nowhere, as there are no clusters, any more often"
    value, low, high = row["enrichment"]
    times = f"{value:.2f} times, {low:.2f} to {high:.2f}"
    if low > 1 and row.get("p", 0) <= TAIL:
        return f"more often ({times})"
    if high < 1 and row.get("p_fewer", 0) <= TAIL:
        return f"less often ({times})"
    return f"not significantly more or less often ({times})"


def _against_chance(found: Sequence[float]) -> str:
    _, low, high = found
    return (
        "better than chance" if low > 0.5 else "worse than chance" if high < 0.5 else "no better than chance"
    )


def _better(difference: Sequence[float]) -> str:
    _, low, high = difference
    return "better than" if low > 0 else "worse than" if high < 0 else "not significantly different from"


def _central(found: Sequence[float]) -> str:
    _, low, high = found
    return "nearer to the centre" if low > 0.5 else "farther out" if high < 0.5 else "no farther out"


def _difference(report: dict[str, Any], name: str) -> str:
    found = report["auroc_difference"].get(name)
    return "" if found is None else f"{_shown(found, '+.3f')}: importance minus this"


def _shown(estimate: Sequence[float], form: str) -> str:
    value, low, high = estimate
    return f"{value:{form}} ({low:{form}} to {high:{form}})"
