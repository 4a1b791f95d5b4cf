"""The page of one protein: structure, sequence, clusters and classes, for a browser without a network."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gemmi
import numpy as np

from partoken_jax.files import write_whole
from partoken_jax.interpret import colours
from partoken_jax.interpret.annotation import Annotation
from partoken_jax.interpret.drawing import colour_class, drawing, principal_frame
from partoken_jax.interpret.html import bar, embedded, fill, table, write_assets
from partoken_jax.interpret.secondary_structure import secondary_structure
from partoken_jax.interpret.tables import residue_numbers
from partoken_jax.proteins.tasks import class_title

SHOWN_CLASSES = 8
"""So many classes are seen at once; the others are folded away."""


def write_page(annotation: Annotation, folder: Path, stem: str, downloads: Sequence[str] = ()) -> Path:
    """Writes `folder`/proteins/`stem`.html, and `folder`/assets, which it loads.

    The page asks for nothing outside the folder, so that it works from a disk. It links to the pages of
    `gallery.write_gallery` and, if the protein has tokens, of `codebook_page.write_codebook_page`.

    Args:
      annotation: the protein and what a model says about it.
      folder: that of all results.
      stem: name of the page without .html.
      downloads: names of files beside the page that it offers, such as those of `coloured.write_coloured`.

    Returns:
      The page.

    Raises OSError where a file cannot be written.
    """
    write_assets(folder)
    path = folder / "proteins" / f"{stem}.html"
    path.parent.mkdir(exist_ok=True)
    write_whole(path, page(annotation, downloads))
    return path


def page(annotation: Annotation, downloads: Sequence[str] = ()) -> str:
    """The HTML of `write_page`."""
    data = page_data(annotation)
    schemes = "".join(
        f'<label><input type="radio" name="scheme" value="{scheme["id"]}"{" checked" if not place else ""}>'
        f"{scheme['label']}</label>"
        for place, scheme in enumerate(data["schemes"])
    )
    name = annotation.protein.name
    with_tokens = any(cluster.token is not None for cluster in annotation.clusters)
    return fill(
        "protein.html",
        title=escape(f"{name} – {annotation.title}"),
        home="../",
        name=escape(name),
        summary=_summary(annotation),
        codebook='<a href="../codebook.html">Codebook</a>' if with_tokens else "",
        drawing=drawing(annotation, f"Trace of {name}"),
        schemes=schemes,
        clusters=_cluster_table(annotation),
        classes=_class_table(annotation),
        downloads=_downloads(downloads),
        data=embedded(data),
    )


def page_data(annotation: Annotation) -> dict[str, Any]:
    """What the scripts of a page read: residues in order, places in Å along the principal axes, colours."""
    protein, origin = annotation.protein, annotation.origin
    centre, rotation = principal_frame(protein.backbone[:, 1])
    turned = (protein.backbone.astype(np.float64) - centre) @ rotation
    names = gemmi.expand_one_letter_sequence(protein.sequence, gemmi.ResidueKind.AA)
    plddt = None
    if origin is not None and np.isfinite(origin.plddt).all():
        plddt = [round(value, 1) for value in origin.plddt.tolist()]
    return {
        "sequence": protein.sequence,
        "types": [name.capitalize() for name in names],
        "numbers": residue_numbers(annotation),
        "structure": secondary_structure(protein),
        "ca": _places(turned[:, 1]),
        "o": _places(turned[:, 3]),
        "rank": annotation.rank_of_residue.tolist(),
        "plddt": plddt,
        "clusters": [
            {
                "rank": cluster.rank,
                "token": cluster.token,
                "importance": round(cluster.importance, 6),
                "residues": cluster.residues.tolist(),
            }
            for cluster in annotation.clusters
        ],
        "schemes": _schemes(annotation, plddt),
    }


def _places(points: np.ndarray) -> list[list[float] | None]:
    known = np.isfinite(points).all(axis=1)
    return [
        [round(x, 2) for x in point] if here else None
        for point, here in zip(points.tolist(), known.tolist(), strict=True)
    ]


def _schemes(annotation: Annotation, plddt: list[float] | None) -> list[dict[str, Any]]:
    """Ways to colour: for every residue the place of its colour in a list, -1 for that of no cluster."""
    ranks, clusters = annotation.rank_of_residue, annotation.clusters
    none = [["", "in no cluster"]] if (ranks == 0).any() else []
    most = max((cluster.importance for cluster in clusters), default=1.0)
    shares = [cluster.importance / most for cluster in clusters]
    found = [
        {
            "id": "cluster",
            "label": "Cluster",
            "colours": [colours.of_rank(cluster.rank) for cluster in clusters],
            "of": (ranks - 1).tolist(),
            "legend": [[colours.of_rank(c.rank), f"cluster {c.rank}"] for c in clusters] + none,
        },
        {
            "id": "importance",
            "label": "Importance",
            "colours": [colours.of_share(share) for share in shares],
            "of": (ranks - 1).tolist(),
            "legend": [[colours.of_share(x), f"{x * most:.3f}"] for x in (0.0, 0.25, 0.5, 0.75, 1.0)] + none,
        },
    ]
    tokens = sorted({cluster.token for cluster in clusters if cluster.token is not None})
    if tokens:
        place = {c.rank: tokens.index(c.token) for c in clusters if c.token is not None}
        found.append(
            {
                "id": "token",
                "label": "Token",
                "colours": [colours.of_token(token) for token in tokens],
                "of": [place.get(rank, -1) for rank in ranks.tolist()],
                "legend": [[colours.of_token(token), f"token {token}"] for token in tokens] + none,
            }
        )
    if plddt is not None:
        bands = [colour for _, colour in colours.PLDDT]
        found.append(
            {
                "id": "plddt",
                "label": "pLDDT",
                "colours": bands,
                "of": [bands.index(colours.of_plddt(value)) for value in plddt],
                "legend": [
                    [colour, f"{bound:.0f} and more" if bound else f"below {colours.PLDDT[-2][0]:.0f}"]
                    for bound, colour in colours.PLDDT
                ],
            }
        )
    return found


def _summary(annotation: Annotation) -> str:
    count, protein = len(annotation.clusters), annotation.protein
    says = (
        f"The model says <strong>{escape(annotation.title)}</strong>, with probability "
        f"{annotation.confidence:.2f}."
    )
    residues = f"{len(protein)} residues"
    if count:
        word = "cluster holds" if count == 1 else "clusters hold"
        inside = int((annotation.rank_of_residue > 0).sum())
        says += f" {count} {word} {inside} of its {residues} ({annotation.coverage:.0%})."
    else:
        says += f" It has {residues} and no clusters."
    missing = int((~protein.complete).sum())
    if missing:
        lack, them = ("lacks", "it") if missing == 1 else ("lack", "them")
        says += f" {missing} {lack} atoms of the backbone, and the model does not see {them}."
    if annotation.origin is not None:
        where = annotation.origin
        says += f" It is chain {escape(where.chain)} of model {where.model} in {escape(where.path.name)}."
    return says


def _cluster_table(annotation: Annotation) -> str:
    if not annotation.clusters:
        return "<p>This model makes no clusters.</p>"
    names = residue_numbers(annotation)
    most = annotation.clusters[0].importance
    rows = []
    for cluster in annotation.clusters:
        share = cluster.importance / most if most > 0 else 0.0
        seed = f"{annotation.protein.sequence[cluster.seed]}{names[cluster.seed]}"
        token = "–"
        if cluster.token is not None:
            token = f'<a href="../codebook.html#token-{cluster.token}">{cluster.token}</a>'
        mark = f'<span class="mark {colour_class(cluster.rank)}"></span>'
        rows.append(
            f'<tr data-rank="{cluster.rank}"><td><button type="button" aria-pressed="false" '
            f'aria-label="Cluster {cluster.rank}: select its residues">{mark}{cluster.rank}</button></td>'
            f'<td class="number">{token}</td>'
            f'<td class="number">{cluster.importance:.3f}</td>'
            f'<td class="bars">{bar(share, colours.of_share(share))}</td>'
            f'<td class="number">{cluster.size}</td><td>{escape(seed)}</td></tr>'
        )
    header = {
        "Cluster": "",
        "Token": "number",
        "Importance": "number",
        " ": "bars",
        "Residues": "number",
        "Seed": "",
    }
    return table(header, rows, "Clusters, from the most important one")


def _class_table(annotation: Annotation) -> str:
    order = np.argsort(-annotation.probabilities, kind="stable").tolist()
    rows = []
    for place, i in enumerate(order):
        title, probability = class_title(annotation.class_names[i]), float(annotation.probabilities[i])
        rows.append(
            f"<tr{' class=first' if not place else ''}><td>{escape(title)}</td>"
            f'<td class="number">{probability:.3f}</td><td class="bars">{bar(probability)}</td></tr>'
        )
    header = {"Class": "", "Probability": "number", " ": "bars"}
    seen = table(header, rows[:SHOWN_CLASSES], "Classes, from the most probable one")
    if len(rows) <= SHOWN_CLASSES:
        return seen
    rest = table(header, rows[SHOWN_CLASSES:], "Less probable classes")
    return f"{seen}<details><summary>{len(rows) - SHOWN_CLASSES} more</summary>{rest}</details>"


def _downloads(names: Sequence[str]) -> str:
    if not names:
        return ""
    items = "".join(f'<li><a href="{quote(name)}" download>{escape(name)}</a></li>' for name in names)
    return f'<section class="files"><h2>Files</h2><ul>{items}</ul></section>'
