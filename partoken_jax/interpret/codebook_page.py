"""The page of the codebook: how often each token is used, for which classes, and what it looks like."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from partoken_jax.files import write_whole
from partoken_jax.interpret import colours
from partoken_jax.interpret.annotation import Annotation
from partoken_jax.interpret.drawing import drawing
from partoken_jax.interpret.enrichment import Enrichment
from partoken_jax.interpret.html import bar, fill, table, write_assets
from partoken_jax.proteins.tasks import class_title

EXAMPLES = 4
"""Clusters shown of a token: those nearest to its code."""
CLASSES = 3
"""Classes named for a token."""


class Example(NamedTuple):
    """A cluster that is shown for its token."""

    distance: float
    """From the code."""
    stem: str
    rank: int
    name: str
    drawing: str


@dataclass
class TokenUse:
    """Where a token was seen."""

    clusters: int = 0
    proteins: int = 0
    residues: int = 0
    importance: float = 0.0
    """Summed over its clusters."""
    classes: Counter[str] = field(default_factory=Counter)
    """Proteins that it is in, by the class that the model says."""
    examples: list[Example] = field(default_factory=list)
    """The nearest `EXAMPLES`, from the nearest one."""


class CodebookUse:
    """What annotated proteins say of the tokens. It keeps sums and a few drawings, not the proteins."""

    def __init__(self) -> None:
        self.tokens: dict[int, TokenUse] = {}
        self.proteins = 0

    def add(self, annotation: Annotation, stem: str) -> None:
        """Takes a protein in, whose page is called `stem`."""
        self.proteins += 1
        seen = set()
        for cluster in annotation.clusters:
            if cluster.token is None:
                continue
            use = self.tokens.setdefault(cluster.token, TokenUse())
            use.clusters += 1
            use.residues += cluster.size
            use.importance += cluster.importance
            if cluster.token not in seen:
                seen.add(cluster.token)
                use.proteins += 1
                use.classes[annotation.title] += 1
            distance = float("inf") if cluster.distance is None else cluster.distance
            self._show(use, annotation, stem, cluster.rank, distance)

    def _show(self, use: TokenUse, annotation: Annotation, stem: str, rank: int, distance: float) -> None:
        place = (distance, stem, rank)
        if len(use.examples) == EXAMPLES and place >= use.examples[-1][:3]:
            return  # before it is drawn
        name = annotation.protein.name
        picture = drawing(annotation, f"Cluster {rank} of {name}", only=rank)
        use.examples = sorted([*use.examples, Example(*place, name, picture)])[:EXAMPLES]


def write_codebook_page(use: CodebookUse, folder: Path, enrichment: Sequence[Enrichment] = ()) -> Path:
    """Writes `folder`/codebook.html, which leads to the pages of `pages.write_page`, and `folder`/assets.

    Args:
      use: the tokens in the annotated proteins.
      folder: that of all results.
      enrichment: tokens and labels to list, where they were tested (`enrichment.fisher_enrichment`).

    Returns:
      The page.

    Raises OSError where a file cannot be written.
    """
    write_assets(folder)
    order = sorted(use.tokens, key=lambda token: (-use.tokens[token].clusters, token))
    clusters = sum(one.clusters for one in use.tokens.values())
    path = folder / "codebook.html"
    tokens = "1 token names" if len(order) == 1 else f"{len(order)} tokens name"
    proteins = "1 protein" if use.proteins == 1 else f"{use.proteins:,} proteins"
    said = f"{tokens} the {clusters:,} clusters of {proteins}." if order else "No protein has a token."
    write_whole(
        path,
        fill(
            "codebook.html",
            title="Codebook",
            said=said,
            usage=_usage(use, order, clusters) if order else "",
            enrichment=_enrichment(enrichment),
            codes="".join(_code(token, use.tokens[token]) for token in order),
        ),
    )
    return path


def _usage(use: CodebookUse, order: list[int], clusters: int) -> str:
    most = use.tokens[order[0]].clusters
    rows = []
    for token in order:
        one = use.tokens[token]
        rows.append(
            f'<tr><td><a href="#token-{token}">{_mark(token)}{token}</a></td>'
            f'<td class="number">{one.clusters}</td>'
            f'<td class="number">{one.clusters / clusters:.1%}</td>'
            f'<td class="bars">{bar(one.clusters / most, colours.of_token(token))}</td>'
            f'<td class="number">{one.proteins}</td><td class="number">{one.residues / one.clusters:.1f}</td>'
            f'<td class="number">{one.importance / one.clusters:.3f}</td></tr>'
        )
    header = {"Token": "", "Clusters": "number", "Share": "number", " ": "bars"}
    header |= {"Proteins": "number", "Mean size": "number", "Mean importance": "number"}
    return table(header, rows, "Tokens, from the most frequent one")


def _enrichment(rows: Sequence[Enrichment]) -> str:
    if not rows:
        return ""
    written = [
        f'<tr><td>{row.token}</td><td>{escape(class_title(row.label))}</td><td class="number">{row.both}</td>'
        f'<td class="number">{row.ratio:.2f}</td><td class="number">{row.q:.1e}</td></tr>'
        for row in rows
    ]
    header = {"Token": "", "Class": "", "Clusters": "number", "Ratio": "number", "q": "number"}
    said = (
        '<p class="hint">The ratio is the share of the class among the clusters of the token over its share '
        "among all clusters; q is the p-value of Fisher's exact test after Benjamini and Hochberg.</p>"
    )
    rows_of = table(header, written, "Enrichment of tokens")
    return f'<section class="usage"><h2>Tokens and classes</h2>{rows_of}{said}</section>'


def _code(token: int, use: TokenUse) -> str:
    named = sorted(use.classes.items(), key=lambda item: (-item[1], item[0]))[:CLASSES]
    classes = ", ".join(f"{escape(name)} in {count}" for name, count in named)
    examples = "".join(
        f'<a href="proteins/{quote(one.stem)}.html#cluster-{one.rank}">{one.drawing}{escape(one.name)}</a>'
        for one in use.examples
    )
    clusters = "1 cluster" if use.clusters == 1 else f"{use.clusters} clusters"
    proteins = "1 protein" if use.proteins == 1 else f"{use.proteins} proteins"
    return (
        f'<section id="token-{token}"><h3>{_mark(token)}Token {token}</h3>'
        f"<p>{clusters} in {proteins}, most often said to be {classes} of them.</p>"
        f'<div class="examples">{examples}</div></section>'
    )


def _mark(token: int) -> str:
    return f'<span class="mark" style="--c:{colours.of_token(token)}"></span>'
