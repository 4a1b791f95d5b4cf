"""The forms that `partoken tune` found best: where they are kept, and which of them count here.

A choice counts for the device, the versions and the class of shapes that it was measured for, and for no
other. The file is `tuned.json` in the directory of the compilation cache.
"""

import dataclasses
import json
import os
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from partoken_jax.config import ModelConfig
from partoken_jax.files import write_whole
from partoken_jax.nn.forms import Form, ShapeClass, Target, choose, shape_class
from partoken_jax.nn.platform import target_platform
from partoken_jax.training.compilation_cache import cache_directory
from partoken_jax.version import __version__

SCHEMA = "partoken.tuned/1"
FILE = "tuned.json"
Choices = tuple[tuple[ShapeClass, Form], ...]


def device_kind(device: jax.Device | None = None) -> str:
    """What a device is, the default one unless told: as its maker calls it, and of a CPU, which jax calls
    "cpu" whatever it is, the name of its model and the number of cores that this process may use."""
    if device is None:
        chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
        device = jax.devices(chosen)[0] if chosen is None or isinstance(chosen, str) else chosen
    if device.platform != "cpu":
        return device.device_kind
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else 'cpu'}, {cores} cores"


def measured_target(mesh: Mesh | None = None) -> Target:
    """What a training step is made for: the devices it will run on, with the forms measured there.

    Several processes make one program together, so that none goes by what it alone has measured.
    """
    platform = target_platform(mesh)
    if jax.process_count() > 1:
        return Target(platform)
    device = None if mesh is None else mesh.devices.flat[0]
    return Target(platform, stored_choices(device_kind(device)))


def stored_choices(device: str) -> Choices:
    """The choices for a device and the versions that are installed. A file that cannot be read is a warning,
    and as if there were none."""
    here = {"device": device, "versions": _versions()}
    return tuple(
        (_shape(entry), _form(entry))
        for entry in _entries()
        if {name: entry.get(name) for name in here} == here
    )


def store_choice(device: str, shape: ShapeClass, form: Form) -> Path | None:
    """Keeps a choice in place of an earlier one for the same; returns the file, None without a directory for
    it. Raises OSError where it cannot be written."""
    directory = cache_directory()
    if directory is None:
        return None
    new = {"device": device, "versions": _versions(), "shape": shape._asdict()}
    others = [entry for entry in _entries() if {name: entry[name] for name in new} != _as_read(new)]
    date = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"schema": SCHEMA, "choices": [*others, {**new, "form": form._asdict(), "date": date}]}
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / FILE, json.dumps(content, indent=1) + "\n")
    return directory / FILE


def forms_line(
    config: ModelConfig, target: Target, node_counts: Sequence[int], neighbours: int
) -> str | None:
    """A line that says which of a run's batches are computed in a form that was measured; None: none is."""
    unmeasured = Target(target.platform)
    shapes: dict[str, list[str]] = {}
    for count in node_counts:
        shape = shape_class(config, count, neighbours)
        form = choose(config, target, shape)
        if shape in dict(target.measured) and form == dict(target.measured)[shape]:
            same = " (the default)" if form == choose(config, unmeasured, shape) else ""
            shapes.setdefault(f"{form}{same}", []).append(f"{count:,}")
    if not shapes:
        return None
    parts = (f"{form} for batches of {', '.join(counts)} rows" for form, counts in shapes.items())
    return f"training step as partoken tune found best on this device: {'; '.join(parts)}"


def _entries() -> list[dict[str, Any]]:
    """What the file holds, every entry of it checked."""
    directory = cache_directory()
    path = None if directory is None else directory / FILE
    if path is None or not path.is_file():
        return []
    try:
        content = json.loads(path.read_text())
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}")
        for entry in content["choices"]:
            entry["device"], entry["versions"], _shape(entry), _form(entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(
            f"{path}: is not a file of partoken tune ({reason}), so that nothing in it is used; "
            "partoken tune writes it anew",
            stacklevel=2,
        )
        return []
    return content["choices"]


def _shape(entry: dict[str, Any]) -> ShapeClass:
    shape = ShapeClass(**entry["shape"])
    (s, v), (es, ev) = shape.node_hidden, shape.edge_hidden
    return shape._replace(node_hidden=(s, v), edge_hidden=(es, ev))


def _form(entry: dict[str, Any]) -> Form:
    """Raises ValueError for what is no form."""
    form = Form(**entry["form"])
    named = {name: value for name, value in form._asdict().items() if name != "chunk"}
    if "auto" in named.values():
        raise ValueError("a form is 'auto'")
    dataclasses.replace(ModelConfig(), **named)
    if form.chunk is not None and not (isinstance(form.chunk, int) and form.chunk > 0):
        raise ValueError(f"chunk is {form.chunk!r}")
    return form


def _versions() -> dict[str, str]:
    return {"jax": version("jax"), "jaxlib": version("jaxlib"), "partoken_jax": __version__}


def _as_read(entry: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(entry))
