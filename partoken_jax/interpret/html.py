"""What the pages share: templates filled in, data inside a page, and the files that every page loads."""

import json
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from partoken_jax.files import write_whole
from partoken_jax.interpret import colours
from partoken_jax.interpret.drawing import style

ASSETS = ("style.css", "ribbon.js", "controls.js", "viewer.js", "page.js", "gallery.js")
"""Files of assets/ that pages load; what else is there are templates."""


def write_assets(folder: Path) -> None:
    """Writes into `folder`/assets what pages load, where it is not there already."""
    (folder / "assets").mkdir(parents=True, exist_ok=True)
    for name in ASSETS:
        path, text = folder / "assets" / name, _asset(name)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_whole(path, text)


def fill(template: str, title: str, home: str = "", **parts: str) -> str:
    """A template of assets/ with its parts, which are HTML already, and the head that all pages have; `home`
    is the way from the page to the folder of all results."""
    rules = style() + f":root{{--none:{colours.NONE['light']}}}"
    rules += f"@media(prefers-color-scheme:dark){{:root{{--none:{colours.NONE['dark']}}}}}"
    head = Template(_asset("head.html")).substitute(title=title, home=home, style=rules)
    return Template(_asset(template)).substitute(parts, head=head)


def embedded(value: Any) -> str:
    """A value as JSON that can stand inside a script element, whatever its texts hold."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def bar(share: float, colour: str = "") -> str:
    """A bar of a table, as long as a share from 0 to 1."""
    of = f";--c:{colour}" if colour else ""
    return f'<span class="bar" style="width:{100 * share:.1f}%{of}"></span>'


def table(header: dict[str, str], rows: list[str], caption: str) -> str:
    """A table of rows that are HTML already; the header maps the names of columns to their classes."""
    head = "".join(
        f'<th scope="col" class="{kind}">{escape(name)}</th>'
        if kind
        else f'<th scope="col">{escape(name)}</th>'
        for name, kind in header.items()
    )
    return (
        f'<div class="wide" tabindex="0"><table aria-label="{escape(caption)}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


@cache
def _asset(name: str) -> str:
    return files("partoken_jax.interpret").joinpath("assets", name).read_text(encoding="utf-8")
