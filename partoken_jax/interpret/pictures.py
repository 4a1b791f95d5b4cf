"""Structure files and pages beside the tables of a folder of annotations, one protein after another."""

from pathlib import Path

from partoken_jax.interpret.annotation import Annotation
from partoken_jax.interpret.codebook_page import CodebookUse, write_codebook_page
from partoken_jax.interpret.coloured import write_coloured
from partoken_jax.interpret.gallery import Summary, summary, write_gallery
from partoken_jax.interpret.html import ASSETS
from partoken_jax.interpret.pages import write_page
from partoken_jax.proteins.structure_formats import StructureError
from partoken_jax.proteins.structures import Skipped, path_of


class Pictures:
    """What is drawn of annotated proteins. Of each it keeps a small drawing for the gallery.

    Args:
      folder: that of all results; it has a folder proteins.
      structures: whether to write the files of `write_coloured`.
      pages: whether to write a page of every protein, the gallery and the page of the codebook.

    Raises OSError, in all methods, where a file cannot be written.
    """

    def __init__(self, folder: Path, *, structures: bool, pages: bool):
        self.folder, self.structures, self.pages = folder, structures, pages
        self.skipped: list[Skipped] = []
        """Proteins without the files of `write_coloured`, and why."""
        self._summaries: list[Summary] = []
        self._use = CodebookUse()

    def add(self, annotation: Annotation, stem: str) -> list[str]:
        """Writes the files of a protein, whose other files are called `stem`; returns their names, seen from
        the folder."""
        written, folder = [], self.folder / "proteins"
        if self.structures:
            try:
                written = write_coloured(annotation, folder, stem)
            except StructureError as error:
                reason = f"it has no structure file, for the file that it is from cannot be used: {error}"
                name, path = annotation.protein.name, path_of(annotation.origin)
                self.skipped.append(Skipped(name, "structure", reason, path))
        if self.pages:
            there = [path.name for path in written]
            there += [f"{stem}.json"] if (folder / f"{stem}.json").is_file() else []
            written.append(write_page(annotation, self.folder, stem, there))
            self._summaries.append(summary(annotation, stem))
            self._use.add(annotation, stem)
        return [f"proteins/{path.name}" for path in written]

    def finish(self) -> list[str]:
        """Writes the pages about all proteins; returns the names of files, seen from the folder."""
        if not self._summaries:
            return []
        with_codebook = bool(self._use.tokens)
        written = [write_gallery(self._summaries, self.folder, with_codebook)]
        if with_codebook:
            written.append(write_codebook_page(self._use, self.folder))
        return [path.name for path in written] + [f"assets/{name}" for name in ASSETS]
