"""The gallery: one page that finds and shows all annotated proteins of a folder."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from partoken_jax.files import write_whole
from partoken_jax.interpret.annotation import Annotation
from partoken_jax.interpret.drawing import drawing
from partoken_jax.interpret.html import embedded, fill, write_assets


@dataclass(frozen=True)
class Summary:
    """What the gallery shows of a protein; some 2 kB, so that those of thousands can be kept."""

    stem: str
    """Name of its page without .html."""
    name: str
    label: str
    """Name of the most probable class."""
    confidence: float
    length: int
    num_clusters: int
    coverage: float
    """Share of its residues that are in a cluster."""
    drawing: str
    """SVG."""


def summary(annotation: Annotation, stem: str) -> Summary:
    """The summary of a protein whose page is called `stem`."""
    name = annotation.protein.name
    return Summary(
        stem=stem,
        name=name,
        label=annotation.title,
        confidence=round(annotation.confidence, 4),
        length=len(annotation.protein),
        num_clusters=len(annotation.clusters),
        coverage=round(annotation.coverage, 4),
        drawing=drawing(annotation, f"Trace of {name}"),
    )


def write_gallery(summaries: Iterable[Summary], folder: Path, with_codebook: bool = False) -> Path:
    """Writes `folder`/index.html, which leads to the pages of `pages.write_page`, and `folder`/assets.

    Args:
      summaries: of the proteins, in the order in which they are shown at first.
      folder: that of all results.
      with_codebook: whether it leads to codebook.html as well.

    Returns:
      The page.

    Raises OSError where a file cannot be written.
    """
    write_assets(folder)
    rows = [
        {
            "page": f"proteins/{quote(one.stem)}.html",
            "name": one.name,
            "label": one.label,
            "confidence": one.confidence,
            "length": one.length,
            "clusters": one.num_clusters,
            "coverage": one.coverage,
            "drawing": one.drawing,
        }
        for one in summaries
    ]
    proteins = "1 protein" if len(rows) == 1 else f"{len(rows):,} proteins"
    path = folder / "index.html"
    write_whole(
        path,
        fill(
            "gallery.html",
            title="Annotated proteins",
            count=proteins,
            codebook='<nav aria-label="Pages"><a href="codebook.html">Codebook</a></nav>'
            if with_codebook
            else "",
            data=embedded(rows),
        ),
    )
    return path
