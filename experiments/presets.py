"""The table of presets in docs/guide/train.md."""

from functools import reduce
from operator import getitem

from partoken_jax.config import TrainConfig, to_dict
from partoken_jax.presets import PRESETS
from partoken_jax.tables import markdown_table


def presets() -> str:
    """Every setting that a preset changes, and what that bought."""
    published = to_dict(TrainConfig())
    rows: list[tuple[object, ...]] = []
    for name, changes in PRESETS.items():
        for setting, change in changes.items():
            before = reduce(getitem, setting.split("."), published)
            rows.append((name, f"`{setting}`", before, change.value, change.bought))
    return markdown_table(("preset", "setting", "published", "here", "what it bought"), rows, "llrrl")
