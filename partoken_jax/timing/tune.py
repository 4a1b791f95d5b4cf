"""Which form of the training step is the fastest on this device, among those that are right on it.

Every form is compiled, its outputs and gradients are compared with those of the plain form, and those that
are right are timed taking turns. What is compiled is the forward and backward pass of the GVP baseline in
training mode: forms differ in the encoder alone, which both models have and which is nearly all of a step.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from partoken_jax.nn.encoder import chunk_size
from partoken_jax.nn.forms import Form, ShapeClass, Target, choose, shape_class
from partoken_jax.nn.platform import target_platform
from partoken_jax.progress import duration, say
from partoken_jax.timing.batches import timing_data
from partoken_jax.timing.measure import Compiled, Timing, compile_program, interleave, ratio
from partoken_jax.timing.programs import timing_settings, train_config
from partoken_jax.timing.sweeps import free_memory
from partoken_jax.timing_config import TimingConfig, TuneConfig
from partoken_jax.training.objective import Objective
from partoken_jax.training.report import environment
from partoken_jax.training.state import initial_state
from partoken_jax.training.step import make_gradient_step
from partoken_jax.training.tuned_forms import device_kind

SCHEMA = "partoken.tune/1"
PLAIN = Form("general", "layer")
"""What every other form is held to. Its layers are computed again, so that it fits where others do."""
CPU_CHUNKS, CHUNKS = (64, 128, 256), (1024, 4096)
"""Receivers per chunk that are tried on a CPU, and elsewhere."""
TRIALS, SLOW = 2, 1.5
"""A form whose best of so many runs takes so many times as long as the fastest is timed no further."""
SECONDS = 120.0
"""For timing; a slow machine times less often than asked for, but at least `LEAST` times."""
LEAST = 5
MEMORY_SHARE = 0.4
"""Of the free memory that a form may need: batches of the same class have up to twice as many residues."""
TOLERANCES = {"float32": (2e-5, 2e-4), "tensorfloat32": (1e-2, 0.05), "bfloat16": (0.05, 0.1)}
"""Largest errors of outputs and of gradients (`errors`), by precision: a few times what rounding makes."""
SMALLEST = 1e-2
"""Of the largest gradient's norm: a smaller gradient is held to this one."""


class Found(NamedTuple):
    """What tuning found."""

    result: dict[str, Any]
    """Everything that was measured, ready for JSON; experiments/results/README.md describes the fields."""
    device: str
    shape: ShapeClass
    form: Form | None
    """The fastest that is right; None where nothing could be compared."""


class _Step(NamedTuple):
    """The gradient step of one form."""

    compiled: Compiled
    call: Callable[[], Objective]


def tune(
    config: TuneConfig,
    *,
    quiet: bool = False,
    command: str = "",
    time: Callable[..., Mapping[Form, Timing]] = interleave,
) -> Found:
    """Compares and times every form that could run on the default device, and chooses one.

    Args:
      quiet: print nothing.
      command: what the result says it was made by.
      time: what times programs taking turns.

    A form that is wrong, does not fit into memory or fails is never chosen, and its row says why. One whose
    times overlap with those of the default, quartile by quartile, does not replace it.
    """
    model = dataclasses.replace(
        config.model, kind="gvp", message_passing="auto", rematerialise="auto", sender_gradient="auto"
    )
    of_batch = TimingConfig(
        batch_size=config.batch_size, residues=config.residues, neighbours=config.neighbours, model=model
    )
    data = timing_data(of_batch)
    num_nodes = len(data.batch.nodes.mask)
    shape, platform = shape_class(model, num_nodes, config.neighbours), target_platform()
    default = choose(model, Target(platform), shape)
    forms = candidates(platform, num_nodes, default)
    names = {form: _name(form, num_nodes) for form in forms}
    tell = partial(say, quiet=quiet)
    tell(
        f"{len(forms)} forms of a training step of {config.batch_size} × {config.residues} residues "
        f"({num_nodes:,} rows, {config.neighbours} neighbours, {model.precision}) on {device_kind()}: each "
        "is compiled and compared with the plain form, then those that are right take turns; that takes up "
        "to five minutes on a CPU"
    )
    training = train_config(of_batch, data, "gvp")
    graphdef, state = initial_state(training)
    arguments = (state, jax.device_put(data.batch), timing_settings(training))

    def build(form: Form) -> _Step:
        return _build(graphdef, arguments, Target(platform, ((shape, form),)))

    rows, steps = _compared(names, build, TOLERANCES[model.precision], tell)
    times = _timed({form: step.call for form, step in steps.items()}, config.repeats, time, tell)
    chosen = fastest(times, default) if times else None
    for form, row in zip(forms, rows, strict=True):
        if form in times:
            row |= _timing_row(times, form, default)
    tell(_verdict(rows, _name(default, num_nodes), None if chosen is None else names[chosen]))
    result = {
        "schema": SCHEMA,
        "environment": {**environment(), "command": command},
        "device": device_kind(),
        "batch": {"proteins": config.batch_size, "residues": config.residues, "rows": num_nodes},
        "shape": shape._asdict(),
        "tolerances": dict(zip(("outputs", "gradients"), TOLERANCES[model.precision], strict=True)),
        "plain": names[PLAIN],
        "default": _name(default, num_nodes),
        "chosen": None if chosen is None else names[chosen],
        "rows": rows,
    }
    return Found(result, device_kind(), shape, chosen)


def _build(graphdef: nnx.GraphDef, arguments: tuple[Any, ...], target: Target) -> _Step:
    """Compiles the gradient step for a target. Raises MemoryError where it needs too much."""
    step = jax.jit(make_gradient_step(graphdef, bypass_codebook=False, target=target))
    compiled = compile_program(step, *arguments)
    if compiled.temp_bytes > MEMORY_SHARE * free_memory():
        raise MemoryError(f"needs {compiled.temp_bytes / 1e9:.1f} GB of memory, too much for this device")
    return _Step(compiled, lambda: compiled.run(*arguments))


def candidates(platform: str, num_nodes: int, default: Form) -> list[Form]:
    """Every form that could run: the plain one first, then the default, each once."""
    sizes: tuple[int, ...] = CPU_CHUNKS if platform == "cpu" else CHUNKS
    if default.rematerialise == "chunk":  # the default has one of the sizes
        sizes = tuple(size for size in sizes if size != chunk_size(num_nodes))
    forms = [
        PLAIN,
        default,
        Form("general", "none"),
        *(Form("dense", again, read) for again in ("none", "layer") for read in ("scatter", "gather")),
        *(Form("dense", "chunk", "scatter", size) for size in sizes if size < num_nodes),
        *(
            Form(form, again)
            for form in ("blocks", "fused")
            for again in ("none", "layer")
            if platform == "tpu"
        ),
    ]
    return list(dict.fromkeys(forms))


def fastest(times: Mapping[Form, Timing], default: Form) -> Form:
    """The form with the least median; the default where their quartiles overlap."""
    best = min(times, key=lambda form: times[form].median)
    if default in times and times[best].quartiles[1] >= times[default].quartiles[0]:
        return default
    return best


def errors(got: Objective, want: Objective) -> dict[str, float]:
    """How far a form is from the plain one; infinite where a value is not finite.

    "outputs": the largest error of outputs and losses, relative to the largest value of its array.
    "gradients": max ‖got - want‖ / ‖want‖ over the parameters, with at least `SMALLEST` of the largest norm
    in place of ‖want‖: the rounding of bfloat16 may be half of a gradient that nearly cancels.
    """
    outputs = map(_error, *map(jax.tree.leaves, ((got.output, got.losses), (want.output, want.losses))))
    of_got, of_want = ([np.asarray(x, np.float64) for x in jax.tree.leaves(o.gradients)] for o in (got, want))
    least = SMALLEST * max(float(np.linalg.norm(x)) for x in of_want) or 1.0
    gradients = [
        float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), least)
        for a, b in zip(of_got, of_want, strict=True)
    ]
    found = {"outputs": max(outputs), "gradients": float(np.max(gradients))}
    return {name: error if np.isfinite(error) else float("inf") for name, error in found.items()}


def _error(got: Any, want: Any) -> float:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    error = float(np.abs(got - want).max(initial=0.0)) / (float(np.abs(want).max(initial=0.0)) or 1.0)
    return error if np.isfinite(error) else float("inf")


def _name(form: Form, num_nodes: int) -> str:
    if form.rematerialise == "chunk" and form.chunk is None:
        form = form._replace(chunk=chunk_size(num_nodes))
    return str(form)


def _compared(
    names: Mapping[Form, str],
    build: Callable[[Form], _Step],
    tolerances: tuple[float, float],
    tell: Callable[[str], None],
) -> tuple[list[dict[str, Any]], dict[Form, _Step]]:
    """A row for every form, and the steps of those that are right. The first form is the plain one; where it
    does not run, nothing can be compared and nothing is right."""
    rows: list[dict[str, Any]] = []
    steps: dict[Form, _Step] = {}
    want: Objective | None = None
    for number, (form, name) in enumerate(names.items(), 1):
        row: dict[str, Any] = {"form": form._asdict(), "label": name, "status": "ok"}
        rows.append(row)
        here = f"{number} of {len(names)}: {name}"
        try:
            step = build(form)
            got = jax.device_get(step.call())
        except Exception as error:  # whatever a compiler or a device has to say
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            row |= {"status": "failed", "error": reason}
            tell(f"{here}: failed, and is not used: {reason}")
            continue
        row |= {"compile_s": step.compiled.compile_s, "temp_bytes": step.compiled.temp_bytes}
        want = got if form == PLAIN else want
        if want is None:
            row |= {"status": "failed", "error": "the plain form, which it would be compared with, failed"}
            continue
        found = row["errors"] = errors(got, want)
        said = f"errors {found['outputs']:.0e}, of gradients {found['gradients']:.0e}"
        if found["outputs"] <= tolerances[0] and found["gradients"] <= tolerances[1]:
            steps[form] = step
            tell(f"{here}: {'the plain form' if form == PLAIN else said}")
        else:
            row["status"] = "wrong"
            tell(f"{here}: wrong on this device, and is not used: {said}")
    return rows, steps


def _timed(
    calls: Mapping[Form, Callable[[], Any]],
    repeats: int,
    time: Callable[..., Mapping[Form, Timing]],
    tell: Callable[[str], None],
) -> dict[Form, Timing]:
    """Every program a few times, and then those that are not slow, all taking turns."""
    if not calls:
        return {}
    first = dict(time(calls, repeats=TRIALS, warm_up=0))  # each has run before
    best = {form: min(timing.seconds) for form, timing in first.items()}
    quick = {form: call for form, call in calls.items() if best[form] <= SLOW * min(best.values())}
    once = sum(first[form].median for form in quick)
    turns = min(repeats, max(LEAST, int(SECONDS / max(once, 1e-9))))
    tell(f"{len(quick)} forms take turns, {turns} times; about {duration(turns * once)}")
    return first | dict(time(quick, repeats=turns, warm_up=0))


def _timing_row(times: Mapping[Form, Timing], form: Form, default: Form) -> dict[str, Any]:
    timing = times[form]
    row: dict[str, Any] = {
        "median_ms": 1e3 * timing.median,
        "quartiles_ms": [1e3 * q for q in timing.quartiles],
        "runs": len(timing.seconds),
    }
    if default in times and len(times[default].seconds) == len(timing.seconds):
        row["over_default"] = ratio(timing, times[default])
    return row


def _verdict(rows: list[dict[str, Any]], default: str, chosen: str | None) -> str:
    """What was found, form by form, and which one is used."""
    lines = []
    for row in sorted((row for row in rows if "median_ms" in row), key=lambda row: row["median_ms"]):
        low, high = row["quartiles_ms"]
        runs = f"{low:,.1f} to {high:,.1f}, {row['runs']} runs"
        lines.append(f"  {row['label']:<37} {row['median_ms']:>9,.1f} ms ({runs})")
    if chosen is None:
        lines.append(f"nothing is chosen: {rows[0].get('error', 'no form is right')}")
    elif chosen == default:
        lines.append(f"fastest, or too close to tell: {default}, the default")
    else:
        lines.append(f"fastest: {chosen}, in place of {default}")
    return "\n".join(lines)
