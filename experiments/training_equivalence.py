"""JAX and PyTorch trained side by side: same initial weights, features and noise, no dropout.

Both run in float32 beside a float64 reference, the PyTorch peer in double precision. A third run shows what
separates JAX from it in the first steps: optax computes Adam's 1 - β^t in float32, so its steps are about
1e-5 too short or too long; with that put right, the rounding is that of PyTorch. In ParToken rounding may end
by turning a discrete decision; from then on the runs train on different clusters.

python -m experiments.training_equivalence
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import torch
from flax import nnx
from tqdm import tqdm

from experiments.flags import Flags, count, run_script
from experiments.parity.partitioner import ZERO_GRADIENTS
from experiments.parity.torch_side import environment as torch_environment
from experiments.torch_peer.graphs import from_featurised
from experiments.torch_peer.models import build_model as build_peer
from experiments.torch_peer.training import make_optimiser
from experiments.torch_peer.training import total_loss as peer_loss
from experiments.torch_peer.weights import load_ours
from partoken_jax import ModelConfig, build_model, featurise, load_dataset, neighbour_tables, pack
from partoken_jax.config import LossConfig
from partoken_jax.convert import dotted, from_state_dict
from partoken_jax.graphs.types import FeaturisedGraph
from partoken_jax.models import GVPOutput
from partoken_jax.training.objective import (
    LossTerms,
    LossWeights,
    Model,
    Randomness,
    evaluate_objective,
    split_model,
)
from partoken_jax.training.optimiser import ADAM
from partoken_jax.training.report import environment

RESULTS = Path(__file__).parent / "results" / "equivalence"
LEARNING_RATE = 1e-3
WEIGHTS = LossWeights(LossConfig.vq, LossConfig.coverage, LossConfig.cardinality)
SHORTEST, LONGEST = 30, 80  # residues
LABELS = {
    "jax": "JAX, float32",
    "jax_exact_step": "JAX, float32, exact 1 - β^t",
    "torch": "PyTorch, float32",
    "float64": "PyTorch, float64",
}
FLOAT32 = ("jax", "jax_exact_step", "torch")
Batches = list[tuple[FeaturisedGraph, np.ndarray]]


class Step(NamedTuple):
    """One step of a run: the loss before the update, the weights after it."""

    losses: dict[str, float]
    clusters: np.ndarray
    """int [N]: cluster of each residue; empty for the GVP baseline."""
    parameters: dict[str, np.ndarray]
    """By our dotted path, in our layout."""


class Comparison(TypedDict):
    """What `compare` found, a number for every step."""

    losses: dict[str, dict[str, list[float]]]
    """By run and term."""
    loss_difference: dict[str, list[float]]
    """Relative, from float64, by float32 run; so are those below."""
    weight_difference: dict[str, list[float]]
    residues_in_another_cluster: dict[str, list[int]]
    first_other_decision: dict[str, int | None]
    """The first step with such a residue."""


def make_batches(steps: int, batch_size: int, rounds: int) -> Batches:
    """Batches of short chains of the embedded set, featurised, with uniform numbers [S, N] for the seeds."""
    dataset = load_dataset(task="cath-class", split="train")
    short = [p for p in dataset.proteins if SHORTEST <= len(p) <= LONGEST]
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(len(short))[:batch_size] for _ in range(steps)]
    num_nodes = max(sum(len(short[i]) for i in batch) for batch in chosen) + 1
    features = jax.jit(featurise)
    batches = []
    for batch in chosen:
        proteins = [short[i] for i in batch]
        graph = pack(proteins, neighbour_tables(proteins, 30), num_nodes=num_nodes, batch_size=batch_size)
        batches.append((features(graph), rng.random((rounds, num_nodes), np.float32)))
    return batches


def arrays_of(state: nnx.State) -> dict[str, np.ndarray]:
    return {dotted(path): np.asarray(variable[...]) for path, variable in nnx.to_flat_state(state)}


def exact_step_sizes(steps: int) -> np.ndarray:
    """[steps]: what optax's Adam steps have to be multiplied with to be those of an exact 1 - β^t."""
    # With a gradient that is always 1 every step should be 1, but for ε.
    one, sizes = jnp.ones(()), []
    moments = ADAM.init(one)
    for _ in range(steps):
        size, moments = ADAM.update(one, moments)
        sizes.append(float(size))
    return 1 / np.array(sizes)


@functools.partial(jax.jit, static_argnums=0)
def jax_step(graphdef: nnx.GraphDef, params, codebook, moments, graph, uniform, rate):
    """One step of Adam: what it moves, the losses before it and the model's output."""
    found = evaluate_objective(
        graphdef, params, codebook, graph, WEIGHTS, randomness=Randomness(uniform=uniform)
    )
    updates, moments = ADAM.update(found.gradients, moments, params)
    updates = jax.tree.map(lambda u: -rate * u, updates)
    return optax.apply_updates(params, updates), found.codebook, moments, found.losses, found.output


def jax_steps(model: Model, batches: Batches, rates: np.ndarray) -> Iterator[Step]:
    """Trains a copy of `model` in float32, with a learning rate for every step."""
    graphdef, params, codebook = split_model(model)
    moments = ADAM.init(params)
    for (graph, uniform), rate in zip(batches, rates.astype(np.float32), strict=True):
        params, codebook, moments, losses, output = jax_step(
            graphdef, params, codebook, moments, graph, uniform, rate
        )
        num_residues = int(np.sum(graph.n_node[:-1]))
        clusters = [] if isinstance(output, GVPOutput) else output.cluster_of_residue[:num_residues]
        terms = {name: float(value) for name, value in losses._asdict().items()}
        yield Step(terms, np.asarray(clusters, int), arrays_of(params))


def torch_steps(
    config: ModelConfig, start: dict[str, np.ndarray], batches: Batches, dtype: torch.dtype
) -> Iterator[Step]:
    """Trains the peer from the weights `start` (by our path)."""
    model = build_peer(config).to(dtype)
    load_ours(model, start)
    model.eval()  # no dropout; the noise is given
    optimiser = make_optimiser(model, LEARNING_RATE)
    for graph, uniform in batches:
        inputs = from_featurised(graph, dtype=dtype)
        options = {}
        if config.kind == "partoken":
            given = torch.as_tensor(uniform[:, : len(inputs.batch)], dtype=dtype)
            options = {"uniform": given, "update_codebook": True}
        optimiser.zero_grad()
        out = model(inputs, **options)
        losses = peer_loss(out, inputs.label, WEIGHTS)
        losses.total.backward()
        optimiser.step()
        clusters = out.cluster_of_residue.numpy() if config.kind == "partoken" else np.zeros(0, int)
        parameters = {name: p.detach().numpy() for name, p in model.named_parameters()}
        terms = {name: value.item() for name, value in losses._asdict().items()}
        yield Step(terms, clusters, from_state_dict(parameters))


def distance(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> float:
    """|got - want| / |want| over all weights. Those whose true gradient is 0 are left out: Adam turns the
    rounding noise of their gradients into steps of full length."""
    names = [name for name in want if name not in ZERO_GRADIENTS]
    squared = sum(np.sum(np.square(got[n].astype(np.float64) - want[n])) for n in names)
    return float(np.sqrt(squared / sum(np.sum(np.square(want[n])) for n in names)))


def compare(config: ModelConfig, steps: int, batch_size: int) -> Comparison:
    """The runs side by side, and how far each float32 one is from the reference."""
    model = build_model(config, rngs=nnx.Rngs(0))
    start = arrays_of(nnx.state(model))
    batches = make_batches(steps, batch_size, config.partitioner.max_clusters)
    rates = np.full(steps, LEARNING_RATE)
    runs = {
        "jax": jax_steps(model, batches, rates),
        "jax_exact_step": jax_steps(model, batches, rates * exact_step_sizes(steps)),
        "torch": torch_steps(config, start, batches, torch.float32),
        "float64": torch_steps(config, start, batches, torch.float64),
    }
    result: Comparison = {
        "losses": {name: {term: [] for term in LossTerms._fields} for name in runs},
        "loss_difference": {name: [] for name in FLOAT32},
        "weight_difference": {name: [] for name in FLOAT32},
        "residues_in_another_cluster": {name: [] for name in FLOAT32},
        "first_other_decision": {},
    }
    bar = tqdm(zip(*runs.values(), strict=True), desc=config.kind, total=steps, disable=None, leave=False)
    for records in bar:
        record = dict(zip(runs, records, strict=True))
        for name, step in record.items():
            for term, value in step.losses.items():
                result["losses"][name][term].append(value)
        reference = record["float64"]
        total = reference.losses["total"]
        for name in FLOAT32:
            difference = abs(record[name].losses["total"] - total) / abs(total)
            result["loss_difference"][name].append(difference)
            result["weight_difference"][name].append(distance(record[name].parameters, reference.parameters))
            moved = int(np.sum(record[name].clusters != reference.clusters))
            result["residues_in_another_cluster"][name].append(moved)
    result["first_other_decision"] = {
        name: next((step for step, n in enumerate(moved) if n), None)
        for name, moved in result["residues_in_another_cluster"].items()
    }
    return result


def plot(results: dict[str, Comparison], path: Path) -> None:
    """Loss curves above, distances from float64 below."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(results), figsize=(11, 7), sharex=True, squeeze=False)
    colours = dict(zip(LABELS, ("tab:blue", "tab:green", "tab:orange", "black"), strict=True))
    styles = dict(zip(LABELS, (":", "-.", "--", "-"), strict=True))
    for column, (kind, result) in enumerate(results.items()):
        top, bottom = axes[:, column]
        for name, label in LABELS.items():
            curve = result["losses"][name]["total"]
            top.plot(curve, styles[name], color=colours[name], label=label)
        top.set_title({"gvp": "GVP", "partoken": "ParToken"}[kind])
        top.set_ylabel("loss")
        top.legend()
        for name in FLOAT32:
            weights = result["weight_difference"][name]
            bottom.semilogy(weights, color=colours[name], label=f"weights: {LABELS[name]}")
            loss = result["loss_difference"][name]
            bottom.semilogy(loss, ".", color=colours[name], markersize=3, label="loss")
            first = result["first_other_decision"][name]
            if first is not None:
                bottom.axvline(first, color=colours[name], linewidth=0.8, linestyle=":")
        bottom.set_ylabel("relative difference from float64")
        bottom.set_xlabel("step (dotted line: first residue in another cluster)")
        bottom.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--steps", type=count, default=100)
    flags.add_argument("--batch-size", type=count, default=4)
    flags.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    args = flags.parse_args()
    results = {}
    for kind in ("gvp", "partoken"):
        config = ModelConfig(kind=kind, num_classes=4, dropout=0.0)
        with jax.default_matmul_precision("highest"):
            results[kind] = compare(config, args.steps, args.batch_size)
        summary = results[kind]
        for name in FLOAT32:
            print(
                f"{kind} {name}: loss {max(summary['loss_difference'][name]):.1e}, weights "
                f"{summary['weight_difference'][name][-1]:.1e} from float64; first residue in another "
                f"cluster at step {summary['first_other_decision'][name]}",
                flush=True,
            )
    args.out.mkdir(parents=True, exist_ok=True)
    content = {
        "schema": "partoken.training_equivalence/1",
        "command": f"python -m experiments.training_equivalence --steps {args.steps} "
        f"--batch-size {args.batch_size}",
        "steps": args.steps,
        "batch_size": args.batch_size,
        "learning_rate": LEARNING_RATE,
        "residues_per_chain": [SHORTEST, LONGEST],
        "environment": {**environment(), **torch_environment()},
        "models": results,
    }
    (args.out / "equivalence.json").write_text(json.dumps(content, indent=1) + "\n")
    plot(results, args.out / "equivalence.png")


if __name__ == "__main__":
    run_script(main)
