"""Pages: what is in them, that they ask for nothing elsewhere, and that no name does harm."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from partoken_jax.interpret.annotation import Annotation
from partoken_jax.interpret.codebook_page import EXAMPLES, CodebookUse, write_codebook_page
from partoken_jax.interpret.drawing import principal_frame
from partoken_jax.interpret.enrichment import Enrichment
from partoken_jax.interpret.pages import page_data, write_page
from partoken_jax.interpret.pictures import Pictures
from tests.helpers import moved, random_rotation, without_atoms
from tests.interpret.made import annotated

EVIL = "</script><script>alert('x')</script>&amp;"
VOID = {"meta", "link", "input", "br", "img"}


class Parsed(HTMLParser):
    """Elements of a page as (tag, attributes), texts of scripts; refuses ends that match no start."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID and tag != "path":
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag != "path":
            assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)

    @property
    def data(self):
        """What is embedded for the scripts."""
        (text,) = self.scripts
        return json.loads(text)

    def links(self) -> list[str]:
        return [
            value
            for _, attributes in self.elements
            for name, value in attributes.items()
            if name in ("href", "src") and value and not value.startswith(("#", "data:,"))
        ]


def write_all(annotations: dict[str, Annotation], folder: Path) -> list[str]:
    """All files of a folder; returns their names."""
    (folder / "proteins").mkdir(parents=True)
    pictures = Pictures(folder, structures=True, pages=True)
    written = [name for stem, one in annotations.items() for name in pictures.add(one, stem)]
    return written + pictures.finish()


@pytest.fixture
def evil(cro):
    return replace(
        cro, protein=replace(cro.protein, name=EVIL), class_names=(f"{EVIL}a", EVIL, f"{EVIL}c"), origin=None
    )


@pytest.fixture
def folder(cro, evil, tmp_path):
    folder = tmp_path / "out"
    written = write_all({"1orc_A": cro, "odd name~2": evil}, folder)
    there = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert sorted(written) == sorted(there)
    return folder


def test_every_link_leads_to_a_file_of_the_folder(folder):
    pages = sorted(folder.rglob("*.html"))
    assert len(pages) == 4
    for page in pages:
        for link in Parsed(page.read_text()).links():
            target = (page.parent / unquote(link.split("#")[0])).resolve()
            assert target.is_file() and target.is_relative_to(folder.resolve()), (page.name, link)


def test_no_page_names_an_address_elsewhere(folder):
    for path in [*folder.rglob("*.html"), *folder.rglob("*.js"), *folder.rglob("*.css")]:
        text = path.read_text()
        assert not re.search(r"https?:|[\"'(]//|@import|url\(|fetch\(|XMLHttp|import\(", text), path.name


def test_names_are_texts_and_nothing_else(folder):
    for page in folder.rglob("*.html"):
        parsed = Parsed(page.read_text())
        scripts = [attributes for tag, attributes in parsed.elements if tag == "script"]
        assert all(
            set(attributes) == {"src"} or attributes["type"] == "application/json" for attributes in scripts
        )
        assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
        assert "alert" not in "".join(parsed.scripts) or page.name == "index.html"
    rows = Parsed((folder / "index.html").read_text()).data
    assert rows[1]["name"] == EVIL and rows[1]["label"] == EVIL
    drawn = Parsed(rows[1]["drawing"])
    assert {tag for tag, _ in drawn.elements} == {"svg", "path"}


def test_the_page_says_what_the_model_says(cro, tmp_path):
    text = write_page(cro, tmp_path, "1orc_A").read_text()
    assert "The model says <strong>transferase</strong>, with probability 0.70." in text
    assert "4 clusters hold 27 of its 64 residues (42%)." in text
    rows = [
        attributes for tag, attributes in Parsed(text).elements if tag == "tr" and "data-rank" in attributes
    ]
    assert [row["data-rank"] for row in rows] == ["1", "2", "3", "4"]


def test_the_data_of_a_page_are_those_of_the_protein(cro):
    data = page_data(cro)
    assert data["sequence"] == cro.protein.sequence and len(data["numbers"]) == 64
    assert data["numbers"][53:55] == ["56", "56A"] and data["types"][0] == "Gln"
    assert [cluster["residues"] for cluster in data["clusters"]] == [
        c.residues.tolist() for c in cro.clusters
    ]
    by_id = {scheme["id"]: scheme for scheme in data["schemes"]}
    assert set(by_id) == {"cluster", "importance", "token"}  # the file is no prediction
    assert (np.array(by_id["cluster"]["of"]) + 1 == cro.rank_of_residue).all()
    tokens = by_id["token"]
    assert tokens["of"][5] == tokens["of"][54] != tokens["of"][24]  # two clusters have token 14
    assert tokens["of"][60] == tokens["of"][0] == -1  # one has none


def test_places_are_those_of_the_protein_turned_and_moved(cro):
    places = np.array(page_data(cro)["ca"])
    source = cro.protein.backbone[:, 1]
    between = np.linalg.norm(places[:, None] - places, axis=-1)
    np.testing.assert_allclose(between, np.linalg.norm(source[:, None] - source, axis=-1), atol=0.03)
    _, rotation = principal_frame(source)
    assert np.linalg.det(rotation) == pytest.approx(1)  # no mirror image


def test_a_protein_looks_the_same_wherever_it_lies(cro):
    turned = moved(cro.protein, random_rotation(np.random.default_rng(1)), 30.0)
    first, second = (page_data(annotated(protein))["ca"] for protein in (cro.protein, turned))
    np.testing.assert_allclose(first, second, atol=0.05)


def test_confidences_are_a_way_to_colour(cro):
    plddt = np.linspace(30, 100, len(cro.protein)).astype(np.float32)
    data = page_data(replace(cro, origin=replace(cro.origin, plddt=plddt)))
    scheme = data["schemes"][-1]
    assert scheme["id"] == "plddt" and data["plddt"][-1] == 100
    assert [scheme["of"][i] for i in (0, 30, 45, 63)] == [3, 2, 1, 0]


def test_residues_that_are_not_in_the_structure_have_no_place(cro, tmp_path):
    protein = without_atoms(cro.protein, [3], atom=1)
    data = page_data(annotated(protein))
    assert data["ca"][3] is None and data["ca"][4] is not None
    text = write_page(annotated(protein), tmp_path, "x").read_text()
    assert (
        "1 lack atoms" not in text and "1 lacks atoms of the backbone, and the model does not see it." in text
    )


def test_a_model_without_clusters_has_pages_too(cro, tmp_path):
    write_all({"x": annotated(cro.protein, members=())}, tmp_path / "out")
    assert "This model makes no clusters." in (tmp_path / "out/proteins/x.html").read_text()
    assert "codebook.html" not in (tmp_path / "out/proteins/x.html").read_text()
    assert not (tmp_path / "out/codebook.html").exists()


def test_equal_annotations_give_equal_pages(cro, tmp_path):
    for name in ("one", "two"):
        write_all({"a": cro}, tmp_path / name)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path


def test_the_codebook_counts_and_keeps_the_nearest_clusters(cro):
    use = CodebookUse()
    for number in range(EXAMPLES + 2):
        nearer = [
            replace(cluster, distance=cluster.distance and cluster.distance - number / 100)
            for cluster in cro.clusters
        ]
        use.add(replace(cro, clusters=tuple(nearer)), f"p{number}")
    assert set(use.tokens) == {14, 3} and use.proteins == 6
    both = use.tokens[14]
    assert (both.clusters, both.proteins, both.residues) == (12, 6, 6 * 15)
    assert both.importance == pytest.approx(6 * 0.65) and both.classes == {"transferase": 6}
    assert [(one.stem, one.rank) for one in both.examples] == [("p5", 1), ("p4", 1), ("p3", 1), ("p2", 1)]


def test_the_codebook_lists_enrichment(cro, tmp_path):
    use = CodebookUse()
    use.add(cro, "1orc_A")
    rows = [Enrichment(14, EVIL, 3, 4, 5, 20, 2.5, 1e-10, 1.2e-9)]
    text = write_codebook_page(use, tmp_path, rows).read_text()
    assert (
        "Tokens and classes" in text and '<td class="number">2.50</td><td class="number">1.2e-09</td>' in text
    )
    assert Parsed(text).scripts == []
    assert "Tokens and classes" not in write_codebook_page(use, tmp_path).read_text()
