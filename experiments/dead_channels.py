"""Why most channels of the residue features die in training, and what keeps them alive.

    python -m experiments.short_chains --out runs/short_chains.npz
    python -m experiments.dead_channels --json experiments/results/learn/dead_channels.json

A channel is dead when it is above 0 for no residue of 60 validation proteins. Before its ReLU a channel is
W_s [s, |v|] + b, where s are the normalised scalars of a residue after the last layer. They have a part that
all residues share, their mean, and one that tells residues apart. What moved the dead channels below 0 is
told apart: the weights (ΔW · mean), the bias (Δb), or the shared part itself (W · Δmean).
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.flags import Flags, count, output, run_script
from experiments.learn import job
from experiments.same_features import ENCODERS
from partoken_jax.config import TrainConfig
from partoken_jax.graphs.features import featurise
from partoken_jax.nn.forms import Target, form_of
from partoken_jax.nn.platform import target_platform
from partoken_jax.progress import say
from partoken_jax.tables import markdown_table
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.data import RunData, load_run_data
from partoken_jax.training.initial_weights import initial_weights
from partoken_jax.training.report import environment
from partoken_jax.training.run import make_program, settings_of
from partoken_jax.training.state import TrainState, initial_state

RECIPES = {
    "gvp-published": "published: sum over residues, random weights",
    "gvp-scratch": "recommended settings; random weights",
    "gvp-recommended": "recommended settings; pretrained encoder",
}
STEPS = (0, 32, 64)
"""When channels are counted."""


def configured(recipe: str, seed: int) -> TrainConfig:
    """A run of a recipe on short chains, in small batches."""
    config = job(Path("runs/dead_channels"), "short-chains", recipe, seed, "float32").config
    data = dataclasses.replace(
        config.data,
        batch_size=16,
        residues_per_batch=None,
        max_shapes=1,
        neighbours=16,
        max_train=1024,
        max_eval=60,
    )
    return dataclasses.replace(config, data=data, stage0=dataclasses.replace(config.stage0, epochs=3))


def followed(recipe: str, seed: int) -> list[dict[str, Any]]:
    """Trains for the last of `STEPS`, and counts at each."""
    config = configured(recipe, seed)
    data = load_run_data(config)
    model = dataclasses.replace(config.model, num_classes=len(data.class_names))
    config = dataclasses.replace(config, model=model)
    graphdef, state = initial_state(config)
    if config.init_from is not None:
        state = initial_weights(str(ENCODERS["backbone"]), state, None, config).state
    step = make_program(config, graphdef, None, Target(target_platform()), quiet=True).train[True]
    read = reader(graphdef, data)
    before = read(state)
    rows = [{"recipe": recipe, "seed": seed, "step": 0, **counted(before, before)}]
    per_epoch, done = data.loaders["train"].num_batches(0), 0
    for epoch in range(-(-STEPS[-1] // per_epoch)):
        settings = settings_of(config, data, epoch)
        for graph, of_step in zip(data.loaders["train"].epoch(epoch), settings, strict=True):
            state, _ = step(state, graph, of_step)
            done += 1
            if done in STEPS:
                found = counted(read(state), before)
                rows.append({"recipe": recipe, "seed": seed, "step": done, **found})
                say(f"{RECIPES[recipe]}, seed {seed}, step {done}: {found['dead']} channels are dead")
    return rows


def reader(graphdef: nnx.GraphDef, data: RunData) -> Any:
    """A function that reads, of a state, the residue features x [R, D] of the validation proteins, the
    scalars s [R, D] that the last product reads, and that product's weights [D, D] and bias [D]."""
    graphs = list(data.loaders["val"].evaluation())

    @jax.jit
    def both(params: nnx.State, codebook: nnx.State, graph: Any) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, params, codebook, copy=True)
        encoder, features = model.encoder, featurise(graph)
        nodes, _ = encoder.run_layers(encoder.embed(features), None, form_of(model.config, None, features))
        return encoder(features), encoder.output_norm(*nodes)[0]

    def read(state: TrainState) -> dict[str, np.ndarray]:
        found = [(both(state.params, state.codebook, graph), graph.nodes.mask) for graph in graphs]
        x, s = (np.concatenate([np.asarray(pair[i])[mask] for pair, mask in found]) for i in (0, 1))
        model: Any = nnx.merge(graphdef, state.params, state.codebook, copy=True)
        last = model.encoder.output_gvp.ws
        width = s.shape[1]
        return {"x": x, "s": s, "w": np.asarray(last.kernel[...])[:width], "b": np.asarray(last.bias[...])}

    return read


def counted(now: dict[str, np.ndarray], before: dict[str, np.ndarray]) -> dict[str, Any]:
    """How many channels are dead, how the residues' scalars look, and what moved the dead channels since
    `before`: the mean over them of the three parts of the change."""
    x, s = now["x"], now["s"]
    dead = x.max(axis=0) <= 0
    mean, first = s.mean(axis=0), before["s"].mean(axis=0)
    moved = {
        "by_weights": (now["w"] - before["w"]).T @ first,
        "by_bias": now["b"] - before["b"],
        "by_shared_part": before["w"].T @ (mean - first),
    }
    return {
        "dead": int(dead.sum()),
        "channels": len(dead),
        "mean_feature": float(x.mean()),
        "shared_over_own": float(np.sum(mean**2) / np.sum(s.var(axis=0))),
        "spread": float((s @ now["w"]).std(axis=0).mean()),
        **{name: float(part[dead].mean()) if dead.any() else 0.0 for name, part in moved.items()},
    }


def table(results: dict[str, Any]) -> str:
    """Markdown: a row per recipe and number of steps, means over seeds."""
    rows: list[tuple[object, ...]] = []
    for recipe, name in RECIPES.items():
        for step in STEPS:
            mine = [row for row in results["rows"] if (row["recipe"], row["step"]) == (recipe, step)]
            if not mine:
                continue
            dead = ", ".join(str(row["dead"]) for row in mine)
            means = {k: np.mean([row[k] for row in mine]) for k in ("mean_feature", "spread")}
            parts = [np.mean([row[k] for row in mine]) for k in ("by_weights", "by_bias", "by_shared_part")]
            shifts = [f"{part:+.2f}" if step else "" for part in parts]
            rows.append((name, step, dead, *(f"{mean:.2f}" for mean in means.values()), *shifts))
    header = ("", "steps", "dead of 100, by seed", "mean feature", "spread before ReLU")
    return markdown_table((*header, "moved by weights", "by bias", "by the shared part"), rows)


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--seeds", type=count, default=3, help="Number of seeds.")
    flags.add_argument("--json", type=output, required=True, help="Where the results go.")
    args = flags.parse_args()
    use_compilation_cache()
    results = {
        "schema": "partoken.dead_channels/1",
        "command": " ".join(["python -m experiments.dead_channels", *sys.argv[1:]]),
        "environment": environment(),
        "rows": [row for seed in range(args.seeds) for recipe in RECIPES for row in followed(recipe, seed)],
    }
    args.json.write_text(json.dumps(results, indent=1) + "\n")
    say(table(results))


if __name__ == "__main__":
    run_script(main)
