"""How much faster than PyTorch, on this machine? Same weights, same proteins, checked before they are timed.

Every variant runs in a process of its own. First its outputs and gradients, compiled where the variant is,
are compared with those of `jax_fast`, and a variant that computes something else is not timed. Then it takes
turns with `jax_fast`, run by run. What does not fit into memory is a row that says so. The fields of the
result are described in experiments/results/README.md.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.compare.process import ALLOCATOR, ROOT, Process, Remote, WorkerError, python_path
from experiments.compare.protocol import ORIGINAL, PASSES, REFERENCE, Settings, cores
from experiments.compare.settings import CompareConfig
from partoken_jax.config import ConfigError
from partoken_jax.timing.measure import Timing, ratio, summary

TOLERANCES = {"float32": 1e-3, "tensorfloat32": 3e-2}
"""Relative error (L2) of logits and gradients up to which two variants count as equal. Rounding in float32 is
about 1e-5; a residue on the edge of a cluster may fall to the other side of it."""
WORST_GRADIENT = {"float32": 1e-2, "tensorfloat32": 0.5}
"""The same for the gradient of each parameter. A turned ReLU alone comes to 7e-3; one that is missing or has
another sign, to 1 or 2."""
FLOOR = 1e-6
"""Share of the norm of all gradients below which a parameter's own counts as this much: some gradients are 0
but for rounding."""
DIFFERING = {"float32": 0.002, "tensorfloat32": 0.05}
"""Share of residues that may be in another cluster."""


class Found(NamedTuple):
    """What one variant, or one model at one batch size, adds to the result."""

    rows: list[dict[str, Any]]
    ratios: dict[str, Any]
    equality: list[dict[str, Any]]


def compare_frameworks(
    config: CompareConfig,
    *,
    command: str,
    save: Callable[[dict[str, Any]], Any] = lambda result: None,
) -> dict[str, Any]:
    """Every model at every batch size, in every variant.

    Args:
      command: what makes this result, to be recorded in it.
      save: called with the result so far after every case.

    Raises ConfigError for settings that do not fit this machine, and where a framework is missing.
    """
    result: dict[str, Any] = {
        "schema": "partoken.timing/1",
        "environment": {**_environment(), "command": command, "allocator": ALLOCATOR, "cores": cores()},
        "measurements": [],
        "ratios": {},
        "equality": [],
    }
    if config.measurement.precision == "tensorfloat32" and result["environment"]["torch_device"] == "cpu":
        raise ConfigError("precision is tensorfloat32, which only a GPU has; on a CPU take float32")
    cases = [(model, size) for size in config.batches.batch_size for model in config.subjects.models]
    with tqdm(cases, unit=" cases", leave=False, disable=None) as bar:
        for model, size in bar:
            # The baseline has no partitioner whose bookkeeping could differ.
            variants = [v for v in config.subjects.variants if model == "partoken" or v != "torch_loops"]
            found = compare_variants(
                config.case(model, size), variants, config.measurement.repeats, bar.set_postfix_str
            )
            result["measurements"] += found.rows
            result["ratios"] |= found.ratios
            result["equality"] += found.equality
            save(result)
    return result


def compare_variants(
    settings: Settings,
    variants: Sequence[str],
    repeats: int,
    progress: Callable[[str], Any] = lambda variant: None,
) -> Found:
    """Checks and times every variant of one model and batch size against `jax_fast`."""
    case = Found([], {}, [])
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.npz"
        _write_weights(settings, weights)
        with Process(REFERENCE, settings) as fast:
            if "error" in fast.hello:
                raise ConfigError(f"{REFERENCE} could not start: {fast.hello['error']}")
            try:
                want, forward = _probed(fast, weights)
                prepared = {"forward": forward, "train_step": fast.prepare("train_step")}
            except WorkerError as error:
                case.rows.extend(row(settings, REFERENCE, name, str(error)) for name in PASSES)
                return case
            seconds: dict[str, list[float]] = {name: [] for name in PASSES}
            others = [v for v in variants if v != REFERENCE]
            if settings.original is not None and settings.model == "partoken":
                others.append(ORIGINAL)
            for variant in others:
                progress(f"{settings.model}, batch {settings.batch_size}, {variant}")
                with Process(variant, settings) as other:
                    found, turns = compare_with_reference(settings, fast, other, want, weights, repeats)
                case.rows.extend(found.rows)
                case.ratios.update(found.ratios)
                case.equality.extend(found.equality)
                for name, times in turns.items():
                    seconds[name] += times
            for name, times in seconds.items():
                try:
                    times = times or [fast.run(name) for _ in range(repeats)]  # nothing took turns with it
                except WorkerError as error:
                    case.rows.append(row(settings, REFERENCE, name, str(error)))
                    continue
                case.rows.append(timed_row(settings, fast, name, prepared[name], summary(times)))
    return case


def compare_with_reference(
    settings: Settings,
    fast: Remote,
    other: Remote,
    want: dict[str, np.ndarray],
    weights: Path,
    repeats: int,
) -> tuple[Found, dict[str, list[float]]]:
    """Checks one variant against `want`, the probe of `jax_fast`, and lets the two take turns.

    Returns what was found, and the seconds of `jax_fast` for each pass that both could run.
    """
    variant, found = other.variant, Found([], {}, [])
    ready: dict[str, dict[str, Any]] = {}
    try:
        if "error" in other.hello:
            raise WorkerError(variant, other.hello["error"])
        if variant != ORIGINAL:
            got, ready["forward"] = _probed(other, weights)
            errors = equality(got, want, settings.precision)
            where = {"model": settings.model, "batch_size": settings.batch_size, "variant": variant}
            found.equality.append({**where, **errors})
            if not errors["equal"]:
                raise WorkerError(variant, "not timed: it computes something else (see equality)")
    except WorkerError as error:
        found.rows.extend(row(settings, variant, name, str(error)) for name in PASSES)
        return found, {}
    turns: dict[str, list[float]] = {}
    for name in PASSES:
        seconds: dict[str, list[float]] = {variant: [], REFERENCE: []}
        try:
            prepared = ready.get(name) or other.prepare(name)
            for turn in range(repeats):
                for remote in (other, fast) if turn % 2 == 0 else (fast, other):
                    seconds[remote.variant].append(remote.run(name))
        except WorkerError as error:
            why = str(error) if error.variant == variant else f"not timed: {error.variant} failed ({error})"
            found.rows.append(row(settings, variant, name, why))
            continue
        turns[name] = seconds[REFERENCE]
        mine = summary(seconds[variant])
        found.rows.append(timed_row(settings, other, name, prepared, mine))
        key = f"{REFERENCE}_over_{variant}.{settings.model}.{name}.{settings.batch}"
        found.ratios[key] = ratio(summary(turns[name]), mine)
    return found, turns


def equality(got: dict[str, np.ndarray], want: dict[str, np.ndarray], precision: str) -> dict[str, Any]:
    """Relative errors of two probes, and whether they may count as equal."""

    def error(names: Sequence[str], floor: float = 0.0) -> float:
        a, b = (np.concatenate([probe[name].ravel() for name in names]) for probe in (got, want))
        return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), floor)

    gradients = sorted(name for name in want if name.startswith("g."))
    missing = sorted(name for name in gradients if name not in got)
    if missing or got["clusters"].shape != want["clusters"].shape:
        return {"equal": False, "missing_gradients": missing}
    floor = FLOOR * float(np.linalg.norm([np.linalg.norm(want[name]) for name in gradients]))
    of_each = {name: error([name], floor) for name in gradients}
    worst = max(of_each, key=of_each.__getitem__)
    differing = float(np.mean(got["clusters"] != want["clusters"])) if want["clusters"].size else 0.0
    found = {
        "loss_error": error(["loss"]),
        "logits_error": error(["logits"]),
        "inference_error": error(["inference"]),
        "gradients_error": error(gradients),
    }
    equal = (
        max(found.values()) <= TOLERANCES[precision]
        and of_each[worst] <= WORST_GRADIENT[precision]
        and differing <= DIFFERING[precision]
    )
    found |= {"worst_gradient_error": of_each[worst], "clusters_differing": differing}
    return {"equal": equal, **found, "worst_gradient": worst.removeprefix("g.")}


def row(settings: Settings, variant: str, name: str, status: str) -> dict[str, Any]:
    """The row of one pass, without times; `status` says why there are none."""
    return {
        "model": settings.model,
        "stage": 1,
        "framework": variant.split("_")[0],
        "variant": variant,
        "pass": name,
        "batch_size": settings.batch_size,
        "residues": settings.residues,
        "precision": settings.precision,
        "status": status,
        "median_ms": None,
        "quartiles_ms": None,
    }


def timed_row(
    settings: Settings, remote: Remote, name: str, prepared: dict[str, Any], timing: Timing
) -> dict[str, Any]:
    """The row of one pass that was timed."""
    return {
        **row(settings, remote.variant, name, "ok"),
        "median_ms": 1e3 * timing.median,
        "quartiles_ms": [1e3 * q for q in timing.quartiles],
        "runs": len(timing.seconds),
        "compile_s": prepared["compile_s"],
        "peak_bytes": prepared["peak_bytes"],
        "host_reads": prepared["host_reads"],
        "proteins_per_s": remote.hello["num_proteins"] / timing.median,
        "padding_share": remote.hello["padding_share"],
    }


def _probed(remote: Remote, weights: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What is compared, by name, and what `prepare` said of inference, which is then ready.

    Raises WorkerError.
    """
    trained, inferred = (weights.parent / f"{remote.variant}_{part}.npz" for part in ("probe", "inference"))
    remote.ask(do="probe", weights=str(weights), out=str(trained))
    prepared = remote.prepare("forward")
    remote.ask(do="infer", out=str(inferred))
    with np.load(trained) as probe, np.load(inferred) as inference:
        return {**probe, "inference": inference["logits"]}, prepared


def _write_weights(settings: Settings, file: Path) -> None:
    """In a process of its own, so that this one never holds a device."""
    code = (
        "import json, sys, numpy as np\n"
        "from experiments.compare.jax_worker import initial_weights\n"
        "from experiments.compare.protocol import Settings\n"
        "np.savez(sys.argv[1], **initial_weights(Settings(**json.loads(sys.argv[2]))))"
    )
    command = [sys.executable, "-c", code, str(file), json.dumps(settings._asdict())]
    environment = {**os.environ, "PYTHONPATH": python_path(str(ROOT)), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise ConfigError((done.stderr.strip().splitlines() or ["no weights could be made"])[-1])


def _environment() -> dict[str, Any]:
    """Versions, and the devices that the frameworks see; asked in processes of their own."""

    def ask(code: str) -> dict[str, Any]:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["a framework could not be imported"])[-1]
            raise ConfigError(f"{last}; install what is missing with: pip install -e '.[torch]'")
        return json.loads(done.stdout)

    ours = ask("import json, partoken_jax.training.report as r; print(json.dumps(r.environment()))")
    theirs = ask(
        "import json, torch, torch_geometric as g; print(json.dumps({'torch': torch.__version__, "
        "'torch_geometric': g.__version__, 'torch_device': torch.cuda.get_device_name() "
        "if torch.cuda.is_available() else 'cpu'}))"
    )
    if ours["device"].endswith("(cpu)") != (theirs["torch_device"] == "cpu"):
        raise ConfigError(
            f"jax would run on {ours['device']}, but torch on {theirs['torch_device']}; install both for the "
            "same device, or hide it from both (JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES=)"
        )
    return {**ours, **theirs}
