"""The pages in a real browser: the structure is drawn, all is linked, nothing is asked for elsewhere."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest

from partoken_jax.interpret import colours
from tests.interpret.browser import CHROMIUM, Browser
from tests.interpret.made import MEMBERS
from tests.interpret.test_pages import write_all

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="there is no Chromium on PATH (Debian: apt-get install chromium)"
    ),
]
HARM = "</script><img src=x onerror='window.harmed = 1'><script>window.harmed = 1</script>"


@pytest.fixture(scope="module")
def folder(cro, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages") / "out"
    named = replace(cro, protein=replace(cro.protein, name=HARM), class_names=(HARM, f"{HARM}1", f"{HARM}2"))
    write_all({"1orc_A": cro, "harm": named}, folder)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser, folder):
    """The browser with the page of 1ORC open; afterwards, its requests and complaints are judged."""
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(folder / "proteins" / "1orc_A.html")
    yield browser
    judge(browser, folder)


def judge(browser, folder):
    assert browser.complaints == []
    outside = [url for url in browser.requests if not url.startswith((f"{folder.as_uri()}/", "data:,"))]
    assert browser.requests and outside == []


def pixels_of(picture: np.ndarray, colour: str) -> np.ndarray:
    """int [n, 2]: rows and columns of pixels with the hue of a colour, under whatever light."""
    hue, _, saturation = colorsys.rgb_to_hsv(*colours.rgb(colour))
    scaled = picture / 255.0
    high, low = scaled.max(axis=-1), scaled.min(axis=-1)
    spread = np.maximum(high - low, 1e-6)
    red, green, blue = np.moveaxis(scaled, -1, 0)
    by_red, by_green = (green - blue) / spread % 6, (blue - red) / spread + 2
    found = np.where(high == red, by_red, np.where(high == green, by_green, (red - green) / spread + 4)) / 6
    apart = np.abs((found - hue + 0.5) % 1 - 0.5)
    return np.argwhere((apart < 0.025) & (spread / np.maximum(high, 1e-6) > 0.6 * saturation))


def chosen(browser) -> list[int]:
    """Residues that the sequence shows as selected."""
    return browser.run(
        "[...document.querySelectorAll('#sequence [aria-selected=true]')].map(c => +c.dataset.i)"
    )


def test_the_structure_is_drawn_in_the_colours_of_the_clusters(page):
    picture = page.picture("#structure")
    for rank in range(1, len(MEMBERS) + 1):
        assert len(pixels_of(picture, colours.of_rank(rank))) > 50, rank
    assert len(pixels_of(picture, colours.of_rank(5))) == 0  # there is no fifth cluster


def test_the_switch_changes_the_colours(page):
    page.click_on("input[value=importance]")
    picture = page.picture("#structure")
    for share in (1.0, 0.6, 0.3):  # of the largest importance
        assert len(pixels_of(picture, colours.of_share(share))) > 50
    assert len(pixels_of(picture, colours.of_rank(2))) == 0
    assert page.run("document.querySelectorAll('#legend li').length") == 6


def test_a_click_on_the_sequence_selects_in_the_structure(page):
    before = page.picture("#structure")
    page.click_on("#sequence [data-i='5']")
    assert chosen(page) == [5]
    assert page.run("document.getElementById('said').textContent").startswith("Lys 8, cluster 1, token 14")
    after = page.picture("#structure")
    assert len(pixels_of(after, colours.of_rank(2))) < len(pixels_of(before, colours.of_rank(2))) / 4
    assert 0 < len(pixels_of(after, colours.of_rank(1))) < len(pixels_of(before, colours.of_rank(1)))
    page.click_on("#clear")
    assert chosen(page) == []


def test_a_click_on_a_cluster_selects_its_residues(page):
    page.click_on("tr[data-rank='2'] td:nth-child(3)")
    assert chosen(page) == list(MEMBERS[1])
    assert (
        page.run("document.querySelector('tr[data-rank=\"2\"] button').getAttribute('aria-pressed')")
        == "true"
    )
    picture = page.picture("#structure")
    assert len(pixels_of(picture, colours.of_rank(2))) > 50 > len(pixels_of(picture, colours.of_rank(3)))


def test_the_structure_selects_in_the_sequence(page):
    page.run("window.scrollTo(0, 0)")
    left, top, _, _ = page.box("#structure")
    places = pixels_of(page.picture("#structure"), colours.of_rank(2))
    row, column = places[len(places) // 2]
    page.click(left + column + 0.5, top + row + 0.5)
    (residue,) = chosen(page)
    assert residue in MEMBERS[1]
    assert page.run("[...document.querySelectorAll('#sequence .pointed')].map(c => +c.dataset.i)") == [
        residue
    ]
    assert page.run("document.querySelector('tr.pointed').dataset.rank") == "2"


def test_keys_are_enough(page):
    page.run("document.querySelector('#sequence [tabindex=\"0\"]').focus()")
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        page.press(key)
    assert chosen(page) == [2]
    page.press("Escape")
    assert chosen(page) == []
    page.run("document.querySelector('tr[data-rank=\"3\"] button').focus()")
    page.press("Enter")
    assert chosen(page) == list(MEMBERS[2])
    page.run("document.getElementById('structure').focus()")
    before = page.picture("#structure")
    page.press("ArrowLeft")
    assert (page.picture("#structure") != before).any()


def test_the_codebook_leads_to_a_cluster(page, folder):
    page.open(folder / "codebook.html")
    page.click_on("#token-3 .examples a")
    page.wait_for("document.getElementById('sequence') !== null && document.readyState === 'complete'")
    assert chosen(page) == list(MEMBERS[1])


@pytest.mark.parametrize("dark", [False, True])
def test_the_background_follows_the_system(browser, folder, dark):
    browser.open(folder / "proteins" / "1orc_A.html", dark=dark)
    assert (browser.picture("#structure")[3, 3].mean() < 64) == dark


@pytest.mark.parametrize("name", ["proteins/1orc_A.html", "index.html", "codebook.html"])
def test_a_phone_needs_no_scrolling_sideways(browser, folder, name):
    browser.open(folder / name, width=360, height=700)
    assert browser.run("document.documentElement.scrollWidth") <= 360


def test_the_gallery_finds_proteins(browser, folder):
    browser.open(folder / "index.html")
    names = "[...document.querySelectorAll('#cards strong')].map(name => name.textContent)"
    assert browser.run(names) == ["1orc_A", HARM]
    browser.run("document.getElementById('words').value = '1ORC trans'")
    browser.run("document.getElementById('words').dispatchEvent(new Event('input'))")
    assert browser.run(names) == ["1orc_A"]


@pytest.mark.parametrize("name", ["proteins/harm.html", "index.html", "codebook.html"])
def test_names_do_no_harm(browser, folder, name):
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(folder / name)
    assert browser.run("window.harmed === undefined")
    assert HARM in browser.run("document.body.textContent")
    judge(browser, folder)


def test_without_webgl_there_is_a_drawing(browser, folder):
    code = "HTMLCanvasElement.prototype.getContext = () => null"
    script = browser.ask("Page.addScriptToEvaluateOnNewDocument", source=code)
    browser.open(folder / "proteins" / "1orc_A.html")
    browser.ask("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    assert browser.run("document.querySelector('#flat svg').getBoundingClientRect().height") > 100
    browser.click_on("#sequence [data-i='5']")
    assert chosen(browser) == [5]
