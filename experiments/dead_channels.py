"""Why half of the node channels are never above 0: dead from the start, or killed by training?

    python -m experiments.dead_channels [--json experiments/results/learn/dead_channels.json]

First the published encoder, untrained: how much of every channel is common to all residues, layer by layer,
and which channels of the output projection are at 0 for every residue. Then a small GVP baseline that trains
at two learning rates, and from an output projection whose channels are centred over the first batches.
"""

import dataclasses
import json
import sys
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.cluster_start import data_of
from experiments.flags import Flags, count, output, run_script
from partoken_jax.config import DataConfig, ModelConfig, TrainConfig
from partoken_jax.graphs.features import featurise
from partoken_jax.progress import say
from partoken_jax.tables import markdown_table
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.data import RunData
from partoken_jax.training.objective import LossWeights, split_model
from partoken_jax.training.report import environment
from partoken_jax.training.schedules import StepSettings
from partoken_jax.training.step import initial_state, make_train_step

RESULT = Path(__file__).parent / "results" / "learn" / "dead_channels.json"
UNTRAINED = TrainConfig(
    model=ModelConfig(kind="gvp"),
    data=DataConfig(task="cath-architecture", batch_size=8, max_shapes=1, max_train=16, max_eval=8),
)
TRAINED = TrainConfig(
    model=ModelConfig(kind="gvp", node_hidden=(32, 8), edge_hidden=(16, 1), num_layers=2),
    data=DataConfig(
        task="cath-architecture", neighbours=16, batch_size=8, max_shapes=1, max_train=160, max_eval=16
    ),
)
VARIANTS: dict[str, tuple[float, bool]] = {
    "published": (1e-3, False),
    "a tenth of the learning rate": (1e-4, False),
    "centred output projection": (1e-3, True),
}
"""Learning rate, and whether the bias of the output projection starts from data."""


def make_reader(graphdef: nnx.GraphDef):
    """Compiled: `(params, codebook, graph)` to the node scalars after every layer [L, N, D] and the output
    projection before its ReLU [N, D]."""

    @jax.jit
    def read(params, codebook, graph):
        encoder = nnx.merge(graphdef, params, codebook, copy=True).encoder
        nodes, every = encoder.run_layers(encoder.embed(featurise(graph)), None, every=True)
        encoder.output_gvp.scalar_activation = None
        return every.scalars, encoder.output_gvp(*encoder.output_norm(*nodes))[0]

    return read


def residues_of(read, state, graphs) -> tuple[np.ndarray, np.ndarray]:
    """What the reader says of all real residues: [L, M, D] and [M, D]."""
    found = [
        (jax.device_get(read(state.params, state.codebook, graph)), graph.nodes.mask) for graph in graphs
    ]
    return (
        np.concatenate([every[:, mask] for (every, _), mask in found], axis=1),
        np.concatenate([before[mask] for (_, before), mask in found]),
    )


def common_over_own(x: np.ndarray) -> float:
    """Of [M, D]: the spread of the channels' means over the spread of residues within a channel."""
    return float(x.mean(axis=0).std() / np.sqrt(x.var(axis=0).mean()))


def dead(x: np.ndarray) -> float:
    """Share of the channels [M, D] that are above 0 for no residue."""
    return float((x.max(axis=0) <= 0).mean())


def untrained(seeds: int) -> list[dict[str, Any]]:
    """A row per seed of the published encoder before any step."""
    data, rows, read = data_of(UNTRAINED, 100, 200), [], None
    for seed in range(seeds):
        graphdef, state = initial_state(dataclasses.replace(UNTRAINED, seed=seed))
        read = read or make_reader(graphdef)
        layers, before = residues_of(read, state, data.loaders["train"].epoch(0))
        rows.append({
            "seed": seed,
            "common_over_own": [common_over_own(layer) for layer in (*layers, before)],
            "dead": dead(before),
            "dead_when_centred": dead(before - before.mean(axis=0)),
        })  # fmt: skip
        say(f"seed {seed}: {rows[-1]['dead']:.0%} dead before the first step")
    return rows


def centred(graphdef, state, read, graphs):
    """The state with a bias of the output projection at which every channel has mean 0."""
    _, before = residues_of(read, state, graphs)
    model: Any = nnx.merge(graphdef, state.params, state.codebook, copy=True)
    bias = model.encoder.output_gvp.ws.bias
    bias[...] = bias[...] - jnp.asarray(before.mean(axis=0))
    return state._replace(params=split_model(model)[1])


def trained(seeds: int, steps: int) -> list[dict[str, Any]]:
    """A row per seed and variant: dead channels of validation chains during training."""
    data: RunData = data_of(TRAINED, 50, 120)
    model = dataclasses.replace(TRAINED.model, num_classes=len(data.class_names))
    graphdef, _ = initial_state(dataclasses.replace(TRAINED, model=model))
    read, step = make_reader(graphdef), make_train_step(graphdef, bypass_codebook=True)
    batches, validation = list(data.loaders["train"].epoch(0)), list(data.loaders["val"].evaluation())
    rows = []
    for seed in range(seeds):
        for name, (rate, from_data) in VARIANTS.items():
            _, state = initial_state(dataclasses.replace(TRAINED, model=model, seed=seed))
            if from_data:
                state = centred(graphdef, state, read, batches[:4])
            settings = StepSettings(
                np.float32(rate), np.float32(1), LossWeights(*np.zeros(3, np.float32)), np.bool_(False)
            )
            shares = [dead(residues_of(read, state, validation)[1])]
            for number, batch in enumerate(islice(cycle(batches), steps), start=1):
                state, metrics = step(state, batch, settings)
                if number % (steps // 2) == 0:
                    shares.append(dead(residues_of(read, state, validation)[1]))
            loss = float(metrics.losses.cross_entropy)
            rows.append({"seed": seed, "variant": name, "dead": shares, "last_cross_entropy": loss})
            say(f"seed {seed}, {name}: dead {' '.join(f'{share:.0%}' for share in shares)}")
    return rows


def table(result: dict[str, Any]) -> str:
    """A result as Markdown."""
    rows = [
        (
            row["seed"],
            *(f"{ratio:.1f}" for ratio in row["common_over_own"]),
            f"{row['dead']:.0%}",
            f"{row['dead_when_centred']:.0%}",
        )
        for row in result["untrained"]
    ]
    layers = [f"layer {i + 1}" for i in range(len(result["untrained"][0]["common_over_own"]) - 1)]
    header = ("seed", *layers, "output", "dead", "dead when centred")
    curves = [
        (row["seed"], row["variant"], *(f"{share:.0%}" for share in row["dead"])) for row in result["trained"]
    ]
    at = ("start", f"{result['steps'] // 2} steps", f"{result['steps']} steps")
    return (
        f"{markdown_table(header, rows)}\n\nPublished encoder before the first step: spread of the channels' "
        f"means over the spread of residues within a channel, and the dead channels of the output.\n\n"
        f"{markdown_table(('seed', 'variant', *at), curves, 'llrrr')}\n\nDead channels of a small GVP "
        f"baseline during training. `{result['command']}`"
    )


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--seeds", type=count, default=3, help="Seeds of the untrained published model.")
    flags.add_argument("--trained-seeds", type=count, default=2, help="Seeds of the small model that trains.")
    flags.add_argument("--steps", type=count, default=40, help="Steps that it trains for.")
    flags.add_argument("--json", type=output, default=RESULT, help="The file for the result.")
    args = flags.parse_args()
    use_compilation_cache()
    result = {
        "schema": "partoken.dead_channels/1",
        "command": " ".join(["python -m experiments.dead_channels", *sys.argv[1:]]),
        "environment": environment(),
        "steps": args.steps,
        "untrained": untrained(args.seeds),
        "trained": trained(args.trained_seeds, args.steps),
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    args.json.with_suffix(".md").write_text(table(result) + "\n")
    print(table(result), flush=True)


if __name__ == "__main__":
    run_script(main)
