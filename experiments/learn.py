"""All training runs that results are quoted from, several at once: the same command starts them and goes on.

    python -m experiments.learn --tasks cath-architecture --recipes gvp-recommended partoken-recommended

On a GPU bfloat16 is the fastest precision; on a CPU it is the slowest, so choose float32 there.

Each run is `partoken train` in ROOT/TASK/RECIPE/seedN, with the settings that this file says; its
config.yaml has them all. A run starts when the run that it takes weights from is done. When the time is up,
on Ctrl-C or on SIGTERM, every run under way saves its state and stops, and the same command resumes it. Runs
that are done are left alone.
"""

import dataclasses
import signal
import subprocess
import sys
import time
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.flags import Flags, count, run_script
from partoken_jax.config import ConfigError, ModelConfig, TrainConfig, from_dict, save_yaml
from partoken_jax.model_config import Precision
from partoken_jax.presets import changes
from partoken_jax.pretrained import model_names
from partoken_jax.progress import say
from partoken_jax.settings import read_yaml

CHAINS = Path(__file__).parent / "data" / "pdb_chains.npz"
PRETRAIN = Path(__file__).parent / "configs" / "pretrain.yaml"
Settings = dict[str, Any]

EVERYWHERE: Settings = {
    # A budget instead of a number of proteins: all runs then have one shape, whatever their seed.
    "data": {
        "path": str(CHAINS),
        "neighbours": 16,
        "batch_size": 96,
        "residues_per_batch": 12_288,
        "max_length": 1200,
        "too_long": "crop",
    },
}


def _epochs(stage0: int, stage1: int) -> Settings:
    """With a temperature that reaches its end, 0.1, in the last epoch."""
    return {
        "stage0": {"epochs": stage0, "warmup_epochs": 1},
        "stage1": {"epochs": stage1, "warmup_epochs": 1},
        "temperature": {"decay": 0.1 ** (1 / (stage0 + stage1 - 1))},
        "freeze_codebook_epochs": 1,
        "loss": {"ramp_epochs": 2},
    }


SHORT: Settings = {"data": {"task": "cath-architecture", "path": "runs/short_chains.npz"}}
"""What a CPU can finish (experiments/short_chains.py)."""
NARROW: Settings = {"model": {"node_hidden": [32, 8], "edge_hidden": [16, 1], "num_layers": 2}}
"""A model that learns something on a CPU in minutes."""
FAST: Settings = {"stage0": {"learning_rate": 1e-3}}
"""Twice the usual rate."""
TASKS: dict[str, tuple[Settings, ...]] = {
    "cath-architecture": ({"data": {"task": "cath-architecture"}}, _epochs(12, 8)),
    "ec-class": ({"data": {"task": "ec-class"}}, _epochs(16, 8)),
    "cath-class": ({"data": {"task": "cath-class"}}, _epochs(3, 3)),
    # Many classes of few proteins: more steps in as many epochs.
    "cath-superfamily": (
        {"data": {"task": "cath-superfamily", "batch_size": 32, "residues_per_batch": 4_096}},
        _epochs(8, 4),
        FAST,
    ),
    "cath-architecture-superfamily": (
        {"data": {"task": "cath-architecture", "split_scheme": "superfamily"}},
        _epochs(12, 8),
    ),
    # Full models, and narrow ones in smaller batches.
    "short-chains": (SHORT, {"data": {"batch_size": 64, "residues_per_batch": 4_096}}, _epochs(3, 2)),
    "screening": (SHORT, {"data": {"batch_size": 16, "residues_per_batch": 1_536}}, _epochs(4, 2), NARROW),
}

RECOMMENDED: Settings = changes("recommended") | {"dead_code_share": 0.0}
"""The preset, but for the share below which codes are dead, which is younger than most runs."""
PUBLISHED: Settings = {"data": {"neighbours": 30}}
"""What is published, in fewer epochs, steps of equal residues and the precision of all runs."""
KEPT: Settings = {"freeze_encoder": True, "stage0": {"learning_rate": 2e-3}}
"""The encoder stays as it is, and what follows it learns, faster than an encoder could."""
TUNED: Settings = {
    # All weights go on from a trained model, slowly, with clusters as sharp as they have become; the codebook
    # is made anew, as at the beginning of every stage 1.
    "stage0": {"epochs": 0},
    "stage1": {"epochs": 4, "learning_rate": 2e-4, "warmup_epochs": 0.5},
    "temperature": {"initial": 0.1, "decay": 1.0},
    "loss": {"ramp_epochs": 1},
}
TYPES: Settings = {"model": {"residue_types": True}}


class Recipe(NamedTuple):
    """What `EVERYWHERE` and the task leave open."""

    kind: str
    settings: tuple[Settings, ...]
    start: str | None = None
    """Whose weights it starts from: a model of the package, or a run by its directory under the root."""
    change: Settings = {}  # noqa: RUF012  # nobody writes to it
    """What goes over the settings of the task as well."""


def _partitioner(kind: str) -> Settings:
    return {"model": {"partitioner": {"kind": kind}}}


RECIPES = {
    "gvp-recommended": Recipe("gvp", (RECOMMENDED,), "pretraining/backbone"),
    "partoken-recommended": Recipe("partoken", (RECOMMENDED,), "pretraining/backbone"),
    "gvp-types": Recipe("gvp", (RECOMMENDED, TYPES), "pretraining/types"),
    "partoken-types": Recipe("partoken", (RECOMMENDED, TYPES), "pretraining/types"),
    "partoken-reseeded": Recipe("partoken", (changes("recommended"),), "pretraining/backbone"),
    "partoken-whole": Recipe("partoken", (RECOMMENDED, _partitioner("whole")), "pretraining/backbone"),
    "partoken-random": Recipe("partoken", (RECOMMENDED, _partitioner("random")), "pretraining/backbone"),
    "gvp-scratch": Recipe("gvp", (RECOMMENDED, FAST)),
    "partoken-scratch": Recipe("partoken", (RECOMMENDED, FAST)),
    # As many parameters as ParToken: 626 fewer of 707,619 with the 12 classes of short chains.
    "gvp-wide": Recipe("gvp", (RECOMMENDED, FAST, {"model": {"node_hidden": [118, 18]}})),
    "gvp-published": Recipe("gvp", (PUBLISHED,)),
    "partoken-published": Recipe("partoken", (PUBLISHED,)),
    "gvp-published-pretrained": Recipe("gvp", (PUBLISHED,), "pretraining/backbone"),
    "partoken-published-pretrained": Recipe("partoken", (PUBLISHED,), "pretraining/backbone"),
    "gvp-transferred": Recipe(
        "gvp", (RECOMMENDED, KEPT), "cath-architecture/gvp-recommended/seed1", _epochs(5, 3)
    ),
    "partoken-transferred": Recipe(
        "partoken", (RECOMMENDED, KEPT), "cath-architecture/partoken-recommended/seed0", _epochs(5, 3)
    ),
    "partoken-tuned": Recipe("partoken", (RECOMMENDED,), "ec-class", TUNED),
    # As narrow as those of the screening, in epochs that take about as long as those of gvp-scratch.
    "gvp-narrow": Recipe("gvp", (RECOMMENDED, FAST), change={**NARROW, **_epochs(8, 5)}),
}
SCREENED: dict[str, tuple[str, Settings]] = {
    "plain": ("as published, but for narrow layers, 16 neighbours and few epochs", {}),
    "mean": ("mean over residues, not their sum", {"model": {"pooling": "mean"}}),
    "norm": ("LayerNorm before the head", {"model": {"norm_pooled": True}}),
    "mean-norm": ("mean and LayerNorm", {"model": {"pooling": "mean", "norm_pooled": True}}),
    "silu": ("SiLU, not ReLU, after the encoder", {"model": {"output_activation": "silu"}}),
    "rate-half": (
        "half the learning rate",
        {"stage0": {"learning_rate": 5e-4}, "stage1": {"learning_rate": 2.5e-4}},
    ),
    "rate-double": (
        "twice the learning rate",
        {"stage0": {"learning_rate": 2e-3}, "stage1": {"learning_rate": 1e-3}},
    ),
    "warm-up-none": (
        "no warm-up, where 1 epoch is usual",
        {"stage0": {"warmup_epochs": 0}, "stage1": {"warmup_epochs": 0}},
    ),
    "clip": ("gradients clipped at a norm of 5", {"clip_norm": 5.0}),
    "one-schedule": ("one cosine, not two", {"one_schedule": True}),
    "weight-decay": ("weight decay 0.05", {"weight_decay": 0.05}),
    "label-smoothing": ("label smoothing 0.1", {"label_smoothing": 0.1}),
    "class-balance": ("class weights n^-0.3", {"class_balance": 0.3}),
    "types": ("residue types as input", TYPES),
    "neighbours-30": ("30 neighbours, as published", {"data": {"neighbours": 30}}),
}
"""Recipe → what it changes of the first, in words and as settings, for the task "screening"."""
RECIPES |= {name: Recipe("gvp", (), change=settings) for name, (_, settings) in SCREENED.items()}
COMPARED = {
    "gvp-published": "GVP as published",
    "gvp-published-pretrained": "GVP as published, pretrained",
    "gvp-scratch": "GVP without pretraining",
    "gvp-narrow": "GVP without pretraining, narrow, in more epochs",
    "gvp-wide": "GVP without pretraining, as many parameters as ParToken",
    "gvp-recommended": "GVP, recommended recipe",
    "gvp-types": "GVP that sees residue types",
    "gvp-transferred": "GVP, encoder kept from CATH architectures",
    "partoken-published": "ParToken as published",
    "partoken-published-pretrained": "ParToken as published, pretrained",
    "partoken-scratch": "ParToken without pretraining",
    "partoken-whole": "ParToken without partition",
    "partoken-random": "ParToken, random clusters",
    "partoken-recommended": "ParToken, recommended recipe",
    "partoken-reseeded": "ParToken, recommended, rare codes re-seeded",
    "partoken-types": "ParToken that sees residue types",
    "partoken-transferred": "ParToken, encoder kept from CATH architectures",
    "partoken-tuned": "ParToken for enzyme classes, all of it trained further",
}
"""The recipes that are compared with each other, and what tables call them."""
PRETRAINING = {"backbone": (), "types": (TYPES,)}


class Job(NamedTuple):
    """One run."""

    name: str
    """Its directory under the root: TASK/RECIPE/seedN, or pretraining/NAME."""
    config: TrainConfig
    family: str
    """Runs of one family differ in their seed alone, so that the second finds the first one's programs."""


def pretraining_job(root: Path, name: str, precision: Precision) -> Job:
    """The run that pretrains an encoder."""
    parts = (read_yaml(PRETRAIN), EVERYWHERE, *PRETRAINING[name])
    place = f"pretraining/{name}"
    return Job(place, _config(root / place, precision, parts), place)


def job(root: Path, task: str, recipe: str, seed: int, precision: Precision) -> Job:
    """The run of a recipe on a task."""
    kind, parts, start, change = RECIPES[recipe]
    name = f"{task}/{recipe}/seed{seed}"
    own = {
        "seed": seed,
        "init_from": start if start is None or start in model_names() else str(root / start),
        "model": {"kind": kind},
    }
    config = _config(root / name, precision, (EVERYWHERE, own, *parts, *TASKS[task], change))
    return Job(name, config, f"{task}/{recipe}")


def _config(run_dir: Path, precision: Precision, parts: Iterable[Settings]) -> TrainConfig:
    """The published settings under all parts, of which later ones win."""
    config = TrainConfig(run_dir=str(run_dir), model=ModelConfig(precision=precision))
    for part in parts:
        config = from_dict(TrainConfig, part, config)
    return dataclasses.replace(config, run_dir=str(run_dir))


def is_done(run_dir: str) -> bool:
    return (Path(run_dir) / "report.json").is_file()


def may_start(start: str | None) -> bool:
    """Whether what a run starts from is there: random weights, a model of the package, or a finished run."""
    return start is None or start in model_names() or is_done(start)


def startable(waiting: list[Job], under_way: list[Job]) -> Job | None:
    """The first job whose start is done, and of whose family nothing is under way."""
    busy = {job.family for job in under_way}
    for candidate in waiting:
        if candidate.family not in busy and may_start(candidate.config.init_from):
            return candidate
    return None


def run_all(jobs: list[Job], at_once: int, seconds: float) -> list[str]:
    """Runs the jobs in their order, so many at once; returns the names of those that failed.

    What is under way when the time is up, or on SIGTERM, is stopped, and saves itself. Call it in the main
    thread.
    """
    terminated: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: terminated.append(number))
    end = time.monotonic() + seconds
    under_way: list[tuple[Job, subprocess.Popen]] = []
    failed: list[str] = []
    waiting = [job for job in jobs if not is_done(job.config.run_dir)]
    try:
        while (waiting or under_way) and time.monotonic() < end and not terminated:
            for pair in list(under_way):
                if (code := pair[1].poll()) is not None:
                    under_way.remove(pair)
                    failed += [pair[0].name] * (code != 0)
                    say(f"{pair[0].name}: " + ("done" if code == 0 else f"exit code {code}, see its log"))
            busy = [job for job, _ in under_way]
            found = startable(waiting, busy) if len(under_way) < at_once else None
            if found is None:
                if not under_way:
                    break  # what waits, waits for a run that failed
                time.sleep(0.5)
                continue
            waiting.remove(found)
            under_way.append((found, start(found)))
            say(f"{found.name}: under way")
    finally:
        for _, process in under_way:
            process.send_signal(signal.SIGTERM)
        for _, process in under_way:
            process.wait()
        signal.signal(signal.SIGTERM, before)
    return failed


def start(job: Job) -> subprocess.Popen:
    """The process of a run; its output goes to a log beside its directory."""
    run_dir = Path(job.config.run_dir)
    config = run_dir.with_name(run_dir.name + ".yaml")
    config.parent.mkdir(parents=True, exist_ok=True)
    save_yaml(job.config, config)
    command = [sys.executable, "-m", "partoken_jax.cli", "train", "--config", str(config), "--resume"]
    with config.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def all_jobs(
    root: Path,
    tasks: Sequence[str],
    recipes: Sequence[str],
    seeds: int,
    precision: Precision = "bfloat16",
) -> list[Job]:
    """Pretraining, then seed after seed of everything."""
    starts = dict.fromkeys(RECIPES[recipe].start for recipe in recipes)
    pretrained = [name for name in PRETRAINING if f"pretraining/{name}" in starts]
    first = [pretraining_job(root, name, precision) for name in pretrained]
    rest = [(task, recipe, seed) for seed in range(seeds) for task in tasks for recipe in recipes]
    return first + [job(root, *one, precision) for one in rest]


def check_starts(jobs: Sequence[Job], root: Path) -> None:
    """Raises ConfigError for a job that starts from a run that is neither finished nor among the jobs."""
    own = {job.config.run_dir for job in jobs}
    for one in jobs:
        start = one.config.init_from
        if not may_start(start) and start not in own and not is_done(one.config.run_dir):
            raise ConfigError(
                f"{one.name} starts from {Path(start or '').relative_to(root)}, which is not finished in "
                f"{root}; run that first"
            )


def main() -> int:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--root", type=Path, default=Path("runs/learn"), help="Where the runs go.")
    flags.add_argument("--tasks", nargs="+", choices=TASKS, required=True)
    flags.add_argument("--recipes", nargs="+", choices=RECIPES, required=True)
    flags.add_argument("--seeds", type=count, default=3, help="Number of seeds.")
    flags.add_argument(
        "--precision", choices=typing.get_args(Precision), default="bfloat16", help="Of products."
    )
    flags.add_argument("--at-once", type=count, default=1, help="Runs at a time.")
    flags.add_argument("--minutes", type=float, default=1e6, help="Then runs under way save and stop.")
    args = flags.parse_args()
    jobs = all_jobs(args.root.resolve(), args.tasks, args.recipes, args.seeds, args.precision)
    check_starts(jobs, args.root.resolve())
    done = sum(is_done(job.config.run_dir) for job in jobs)
    say(f"{len(jobs)} runs, {done} of them done")
    failed = run_all(jobs, args.at_once, 60 * args.minutes)
    left = sum(not is_done(job.config.run_dir) for job in jobs)
    say(f"{left} runs are left" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


if __name__ == "__main__":
    run_script(main)
