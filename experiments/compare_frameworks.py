"""How much faster than PyTorch, on this machine? Same weights, same proteins, checked before they are timed.

    partoken compare [flags]        python -m experiments.compare_frameworks [flags]

Every variant (experiments/comparison/worker.py names them) runs in a process of its own. First its outputs
and gradients, compiled where the variant is, are compared with those of `jax_fast`, and a variant that
computes something else is not timed.
Then it takes turns with `jax_fast`, run by run. What does not fit into memory is a row that says so. Fields
of the JSON: docs/COMPARISON.md.
"""

import contextlib
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

from experiments.comparison.report import markdown as markdown
from experiments.comparison.report import plot as plot
from experiments.comparison.worker import ORIGINAL, ORIGINAL_MODELS, VARIANTS, Settings, cores
from partoken_jax.config import ConfigError
from partoken_jax.timing.measure import Timing, ratio, summary

ROOT = Path(__file__).parents[1]
REFERENCE = "jax_fast"
PASSES = ("forward", "train_step")
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
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
"""Set for all variants. glibc otherwise gives the memory of every step back to the kernel, and jax takes most
of a GPU at once, which two processes that take turns have to share."""
NO_CACHE = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
"""Compile times are of a first time; `compile_program` does the same for jax."""


class WorkerError(Exception):
    """The worker of `variant` could not do what it was told; says why."""

    def __init__(self, variant: str, why: str):
        super().__init__(why)
        self.variant = variant


class Process:
    """A worker, started for one variant; `with` ends it."""

    def __init__(self, variant: str, settings: Settings):
        self.variant = variant
        environment = {**os.environ, **ALLOCATOR, **NO_CACHE, "PYTHONPATH": str(ROOT)}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed in __exit__
        command = [sys.executable, "-m", "experiments.comparison.worker", variant]
        self.process = subprocess.Popen(
            [*command, json.dumps(settings._asdict())],
            cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip
        self.hello = self._answer()
        """What it says of itself; {"error": why} if it could not start."""

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.stdout.close()
        self.log.close()

    def ask(self, **order: Any) -> dict[str, Any]:
        """What the worker answers. Raises WorkerError."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(order), file=self.process.stdin, flush=True)
        answer = self._answer()
        if "error" in answer:
            raise WorkerError(self.variant, answer["error"])
        return answer

    def prepare(self, name: str) -> dict[str, Any]:
        """Readies a pass. Raises WorkerError."""
        return self.ask(do="prepare", **{"pass": name})

    def run(self, name: str) -> float:
        """Seconds of one run. Raises WorkerError."""
        return self.ask(do="run", **{"pass": name})["seconds"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.log.seek(0)
        last = (self.log.read().strip().splitlines() or ["no message"])[-1]
        out_of_memory = code == -9 or "MemoryError" in last or "bad_alloc" in last
        return {"error": "out of memory" if out_of_memory else last}


class Case(NamedTuple):
    """Everything about one model and one batch size."""

    rows: list[dict[str, Any]]
    ratios: dict[str, Any]
    equality: list[dict[str, Any]]


def compare(
    settings: Settings, variants: Sequence[str], repeats: int, progress: Callable[[str], Any]
) -> Case:
    """Checks and times every variant against `jax_fast`."""
    case = Case([], {}, [])
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.npz"
        _write_weights(settings, weights)
        with Process(REFERENCE, settings) as fast:
            if "error" in fast.hello:
                raise ConfigError(f"{REFERENCE} could not start: {fast.hello['error']}")
            reference: dict[str, list[Timing]] = {name: [] for name in PASSES}
            try:
                want, forward = _probed(fast, weights)
                prepared = {"forward": forward, "train_step": fast.prepare("train_step")}
            except WorkerError as error:
                case.rows.extend(_row(settings, REFERENCE, name, error=str(error)) for name in PASSES)
                return case
            others = [v for v in variants if v != REFERENCE]
            if settings.original is not None and settings.model == "partoken":
                others.append(ORIGINAL)
            for variant in others:
                progress(f"{settings.model}, batch {settings.batch_size}, {variant}")
                with Process(variant, settings) as other:
                    _compare_one(settings, fast, other, want, weights, repeats, case, reference)
            for name in PASSES:
                times = [second for timing in reference[name] for second in timing.seconds]
                try:
                    if not times:  # nothing took turns with it
                        times = [fast.run(name) for _ in range(repeats)]
                except WorkerError as error:
                    case.rows.append(_row(settings, REFERENCE, name, error=str(error)))
                    continue
                case.rows.append(_row(settings, REFERENCE, name, fast.hello, prepared[name], summary(times)))
    return case


def _compare_one(
    settings: Settings,
    fast: Process,
    other: Process,
    want: dict[str, np.ndarray],
    weights: Path,
    repeats: int,
    case: Case,
    reference: dict[str, list[Timing]],
) -> None:
    """Adds one variant to the case."""
    variant = other.variant
    ready = {}
    try:
        if "error" in other.hello:
            raise WorkerError(variant, other.hello["error"])
        if variant != ORIGINAL:
            got, ready["forward"] = _probed(other, weights)
            found = equality(got, want, settings.precision)
            where = {"model": settings.model, "batch_size": settings.batch_size, "variant": variant}
            case.equality.append({**where, **found})
            if not found["equal"]:
                raise WorkerError(variant, "not timed: it computes something else (see equality)")
    except WorkerError as error:
        case.rows.extend(_row(settings, variant, name, error=str(error)) for name in PASSES)
        return
    for name in PASSES:
        seconds: dict[str, list[float]] = {variant: [], REFERENCE: []}
        try:
            prepared = ready.get(name) or other.prepare(name)
            for turn in range(repeats):
                for process in (other, fast) if turn % 2 == 0 else (fast, other):
                    seconds[process.variant].append(process.run(name))
        except WorkerError as error:
            why = str(error) if error.variant == variant else f"not timed: {error.variant} failed ({error})"
            case.rows.append(_row(settings, variant, name, error=why))
            continue
        mine, theirs = summary(seconds[variant]), summary(seconds[REFERENCE])
        reference[name].append(theirs)
        case.rows.append(_row(settings, variant, name, other.hello, prepared, mine))
        key = f"{REFERENCE}_over_{variant}.{settings.model}.{name}.{_batch(settings)}"
        case.ratios[key] = ratio(theirs, mine)


def equality(got: dict[str, np.ndarray], want: dict[str, np.ndarray], precision: str) -> dict[str, Any]:
    """Relative errors of two probes, and whether they may count as equal."""

    def error(names: Sequence[str], floor: float = 0.0) -> float:
        a, b = (np.concatenate([probe[name].ravel() for name in names]) for probe in (got, want))
        return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), floor))

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


def _write_weights(settings: Settings, file: Path) -> None:
    """In a process of its own, so that this one never holds a device."""
    code = (
        "import json, sys, numpy as np\n"
        "from experiments.comparison.jax_worker import initial_weights\n"
        "from experiments.comparison.worker import Settings\n"
        "np.savez(sys.argv[1], **initial_weights(Settings(**json.loads(sys.argv[2]))))"
    )
    command = [sys.executable, "-c", code, str(file), json.dumps(settings._asdict())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise ConfigError((done.stderr.strip().splitlines() or ["no weights could be made"])[-1])


def _probed(process: Process, weights: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What is compared, by name, and what `prepare` said of inference, which is then ready.

    Raises WorkerError.
    """
    trained, inferred = (weights.parent / f"{process.variant}_{part}.npz" for part in ("probe", "inference"))
    process.ask(do="probe", weights=str(weights), out=str(trained))
    prepared = process.prepare("forward")
    process.ask(do="infer", out=str(inferred))
    with np.load(trained) as probe, np.load(inferred) as inference:
        return {**probe, "inference": inference["logits"]}, prepared


def _batch(settings: Settings) -> str:
    return f"{settings.batch_size}x{settings.residues or 'real'}"


def _row(
    settings: Settings,
    variant: str,
    name: str,
    hello: dict[str, Any] | None = None,
    prepared: dict[str, Any] | None = None,
    timing: Timing | None = None,
    error: str = "",
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": settings.model,
        "stage": 1,
        "framework": variant.split("_")[0],
        "variant": variant,
        "pass": name,
        "batch_size": settings.batch_size,
        "residues": settings.residues,
        "precision": settings.precision,
        "status": error or "ok",
    }
    if timing is None or hello is None or prepared is None:
        return {**row, "median_ms": None, "quartiles_ms": None}
    return {
        **row,
        "median_ms": 1e3 * timing.median,
        "quartiles_ms": [1e3 * q for q in timing.quartiles],
        "runs": len(timing.seconds),
        "compile_s": prepared["compile_s"],
        "peak_bytes": prepared["peak_bytes"],
        "host_reads": prepared["host_reads"],
        "proteins_per_s": hello["num_proteins"] / timing.median,
        "padding_share": hello["padding_share"],
    }


def compare_frameworks(
    *,
    models: Sequence[str],
    batch_sizes: Sequence[int],
    variants: Sequence[str],
    residues: int,
    path: str | None,
    neighbours: int,
    precision: str,
    repeats: int,
    seed: int,
    small: bool = False,
    original: str | None = None,
    command: str,
    save: Callable[[dict[str, Any]], Any] = lambda result: None,
) -> dict[str, Any]:
    """Every model at every batch size, in every variant.

    Args:
      residues: length of synthetic proteins; `path`, a .npz of real ones, comes first.
      small: a small model, to try things out.
      original: a checkout of the authors' code, whose ParToken is timed too.
      save: called with the result so far after every case.

    Raises ConfigError for settings that cannot be used, and where a framework is missing.
    """
    for name, given, allowed in (
        ("models", models, ("gvp", "partoken")),
        ("variants", variants, VARIANTS),
        ("precision", [precision], tuple(TOLERANCES)),
    ):
        if not given or set(given) - set(allowed):
            raise ConfigError(f"{name} is {','.join(given)!r}, but must be of {', '.join(allowed)}")
    if not batch_sizes or min(*batch_sizes, residues, repeats, neighbours) < 1:
        raise ConfigError("batch sizes, residues, neighbours and repeats must be at least 1")
    result: dict[str, Any] = {
        "schema": "partoken.timing/1",
        "environment": {**_environment(), "command": command, "allocator": ALLOCATOR, "cores": cores()},
        "measurements": [],
        "ratios": {},
        "equality": [],
    }
    if precision == "tensorfloat32" and result["environment"]["torch_device"] == "cpu":
        raise ConfigError("precision tensorfloat32 is one of GPUs; on a CPU take float32")
    files = [f"{module}.py" for module, _ in ORIGINAL_MODELS]
    if original is not None and not any((Path(original) / file).is_file() for file in files):
        raise ConfigError(f"{original}: has no {' or '.join(files)}; give a checkout of the authors' code")
    cases = [(model, size) for size in batch_sizes for model in models]
    with tqdm(cases, unit=" cases", leave=False, disable=None) as bar:
        for model, size in bar:
            settings = Settings(
                model, size, None if path else residues, path, neighbours, precision, seed, small, original
            )
            # The baseline has no partitioner whose bookkeeping could differ.
            mine = [v for v in variants if model == "partoken" or v != "torch_loops"]
            found = compare(settings, mine, repeats, bar.set_postfix_str)
            result["measurements"] += found.rows
            result["ratios"] |= found.ratios
            result["equality"] += found.equality
            save(result)
    return result


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
            f"jax would run on {ours['device']}, torch on {theirs['torch_device']}; install both for the "
            "same device, or hide it from both (JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES=)"
        )
    return {**ours, **theirs}


if __name__ == "__main__":
    from partoken_jax.cli import main

    sys.exit(main(["compare", *sys.argv[1:]]))
