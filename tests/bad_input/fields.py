"""Every setting there is, given what it cannot hold. A field added later is tried as well."""

import json
import typing
from collections.abc import Iterator
from typing import Any

from partoken_jax.config import TrainConfig
from partoken_jax.settings import is_settings
from partoken_jax.timing_config import TimingConfig
from tests.bad_input.case import Case
from tests.bad_input.made_files import write

NUMBERS = {"text": "banana", "nan": float("nan"), "infinity": float("inf"), "minus infinity": float("-inf")}
NUMBERS |= {
    "a negative number": -1,
    "a huge number": 10**12,
    "true": True,
    "a list": [1, 2, 3],
    "nothing": "",
}
OTHERS = {"a group": {"a": 1}, "a huge number": 10**12}


def _fields(cls: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, type) of every setting, those of groups included."""
    for name, hint in typing.get_type_hints(cls).items():
        if is_settings(hint):
            yield from _fields(hint, f"{where}{name}.")
        else:
            yield f"{where}{name}", hint


def _holds(hint: Any, *kinds: type) -> bool:
    return hint in kinds or any(_holds(part, *kinds) for part in typing.get_args(hint))


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return nested


def _yaml(value: Any) -> str:
    """A value, or groups of them, as YAML writes them."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(inner)}" for name, inner in value.items()) + "}"
    return f".{value}".replace(".-", "-.") if isinstance(value, float) else json.dumps(value)


def _of_a_file(kind: str, value: Any, names: list[str]) -> Case:
    return Case(
        f"every setting of a run: {kind} ({len(names)} of them)",
        ("train", "--config", "c.yaml"),
        ("c.yaml: ", "must be", *(f"{name} is " for name in names)),
        write("c.yaml", _yaml(_nested(dict.fromkeys(names, value)))),
    )


RUN, TIMING = dict(_fields(TrainConfig)), dict(_fields(TimingConfig))
NUMERIC = [name for name, hint in RUN.items() if _holds(hint, int, float) and not _holds(hint, bool)]
OTHER = [name for name in RUN if name not in NUMERIC]
FLAGS = [
    name
    for name, hint in TIMING.items()
    if _holds(hint, int, float) and not _holds(hint, bool, tuple) and name != "model.num_classes"
]
PAIRS = [name for name in FLAGS if typing.get_origin(TIMING[name]) is tuple]


def _of_flags(kind: str, value: str) -> Case:
    words = [word for name in FLAGS if name not in PAIRS for word in (f"--{name.replace('_', '-')}={value}",)]
    return Case(
        f"every number that timing takes: {kind}",
        ("time", *words),
        ("must be", *(f"{name} is " for name in FLAGS if name not in PAIRS)),
    )


CASES = [
    *(_of_a_file(kind, value, NUMERIC) for kind, value in NUMBERS.items()),
    *(_of_a_file(kind, value, OTHER) for kind, value in OTHERS.items()),
    *(_of_flags(kind, str(value)) for kind, value in NUMBERS.items() if kind not in ("true", "a list")),
]
