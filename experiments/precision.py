"""What each precision of products costs in accuracy: errors of one step, and training side by side.

    python -m experiments.precision [--out DIR] [--batch-size 8] [--steps 60]

From one initialisation, on the same batches of the EC task and with the same random numbers, both models are
trained at every precision (--steps steps). Then the weights that float32 ended with are run at every
precision: errors of logits, node features and gradients, and how many decisions differ. Writes
DIR/precision_DEVICE.json.

A CPU has no TensorFloat32; there it is emulated: both operands of every product are rounded to 10 bits of
mantissa, as a GPU's tensor cores do.
"""

import dataclasses
import functools
import itertools
import json
import sys
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.interpreters import mlir
from tqdm import tqdm

from experiments.flags import Flags, count, run_script
from partoken_jax.model_config import Precision
from partoken_jax.tables import markdown_table
from partoken_jax.timing.batches import TimingData, timing_data
from partoken_jax.timing.programs import timing_settings, train_config
from partoken_jax.timing.report import MODEL_NAMES
from partoken_jax.timing_config import TimingConfig
from partoken_jax.training.objective import forward
from partoken_jax.training.report import environment
from partoken_jax.training.state import TrainState, initial_state
from partoken_jax.training.step import make_gradient_step, make_train_step

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results" / "precision"
CHAINS = ROOT / "experiments" / "data" / "pdb_chains.npz"
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TF32_MANTISSA = 10
LAST = 20
"""Steps whose mean loss is reported: single steps differ more than precisions do."""


def emulate_tensorfloat32() -> None:
    """Lets a CPU round the operands of such products, in every program compiled from now on."""
    from jax._src.lax.lax import _dot_general_lower  # the rule that this one goes on to

    high = jax.lax.Precision.HIGH

    def lower(ctx: Any, lhs: Any, rhs: Any, *, precision: Any, **params: Any) -> Any:
        if precision in (high, (high, high)):
            lhs, rhs = (_rounded(ctx, x, aval) for x, aval in zip((lhs, rhs), ctx.avals_in, strict=True))
        return _dot_general_lower(ctx, lhs, rhs, precision=precision, platform="cpu", **params)

    mlir.register_lowering(jax.lax.dot_general_p, lower, platform="cpu")


def _rounded(ctx: Any, x: Any, aval: Any) -> Any:
    rule = mlir.lower_fun(
        functools.partial(jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=TF32_MANTISSA),
        multiple_results=False,
    )
    return rule(ctx.replace(avals_in=[aval], avals_out=[aval]), x)[0]


def settings(batch_size: int) -> TimingConfig:
    """EC-task batches."""
    return TimingConfig(batch_size=batch_size, path=str(CHAINS))


def compare(config: TimingConfig, steps: int, *, quiet: bool = False) -> dict[str, Any]:
    """The results of both models; experiments/results/README.md describes the fields."""
    data = timing_data(config)
    rows = len(data.batch.nodes.mask)  # of one shape, so that every program is compiled once
    alike = (batch for batch in data.loader.epoch(0) if len(batch.nodes.mask) == rows)
    batches = [jax.device_put(batch) for batch in itertools.islice(alike, steps)]
    result: dict[str, Any] = {"batch_size": config.batch_size, "steps": len(batches), "models": {}}
    with tqdm(
        total=len(config.models) * len(PRECISIONS) * len(batches), unit=" steps", disable=quiet or None
    ) as bar:
        for kind in config.models:
            found: dict[str, dict[str, Any]] = {}
            trained: TrainState | None = None
            for precision in PRECISIONS:
                state, losses = _train(_with(config, precision), data, kind, batches, bar)
                trained = trained or state
                found[precision] = {"losses": losses, "last_losses_mean": float(np.mean(losses[-LAST:]))}
            assert trained is not None
            probes = {p: _probe(_with(config, p), data, kind, trained) for p in PRECISIONS}
            for precision in PRECISIONS:
                found[precision] |= _errors(probes[precision], probes["float32"])
            result["models"][kind] = found
    return result


def _with(config: TimingConfig, precision: Precision) -> TimingConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, precision=precision))


def _train(
    config: TimingConfig, data: TimingData, kind: str, batches: list, bar: tqdm
) -> tuple[TrainState, list[float]]:
    training = train_config(config, data, kind)
    graphdef, state = initial_state(training)
    step = make_train_step(graphdef, bypass_codebook=False)
    losses = []
    for batch in batches:
        state, metrics = step(state, batch, timing_settings(training))
        losses.append(float(metrics.losses.total))
        bar.update()
    return state, losses


def _probe(config: TimingConfig, data: TimingData, kind: str, state: TrainState) -> dict[str, np.ndarray]:
    """What the trained weights say at one precision: inference, and gradients of a training step."""
    training = train_config(config, data, kind)
    graphdef, _ = initial_state(training)
    graph = jax.device_put(data.batch)

    @jax.jit
    def infer(params, codebook):
        return forward(nnx.merge(graphdef, params, codebook, copy=True), graph)

    out = infer(state.params, state.codebook)
    step = jax.jit(make_gradient_step(graphdef, bypass_codebook=False))
    gradients = step(state, graph, timing_settings(training)).gradients
    found = {
        "logits": out.logits,
        "gradients": jnp.concatenate([jnp.ravel(g) for g in jax.tree.leaves(gradients)]),
        "classes": jnp.argmax(out.logits, axis=-1),
    }
    if kind == "gvp":
        found["node features"] = out.node_features
    else:
        real = np.asarray(data.batch.nodes.mask)
        found["residues' clusters"] = out.cluster_of_residue[real]
        found["codes"] = out.codes
    return {name: np.asarray(value) for name, value in found.items()}


def _errors(probe: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> dict[str, Any]:
    """Relative errors (L2 norm) of numbers, differing shares of decisions."""
    errors, differing = {}, {}
    for name, want in exact.items():
        got = probe[name]
        if np.issubdtype(want.dtype, np.integer):
            differing[name] = float(np.mean(got != want))
        else:
            errors[name] = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    return {"relative_errors": errors, "differing": differing}


def table(result: dict[str, Any]) -> str:
    """A result as Markdown."""
    rows = []
    for kind, found in result["models"].items():
        for name, row in found.items():
            errors, differing = row["relative_errors"], row["differing"]
            cells = [f"{errors[key]:.1e}" for key in ("logits", "gradients")]
            cells += [
                f"{differing[k]:.1%}" if k in differing else "" for k in ("residues' clusters", "codes")
            ]
            rows.append((MODEL_NAMES[kind], name, *cells, f"{row['last_losses_mean']:.4f}"))
    emulated = ", with TensorFloat32 emulated" if result["tensorfloat32_emulated"] else ""
    header = ("model", "precision", "logits", "gradients", "residues' clusters", "tokens", "mean loss")
    return (
        f"{markdown_table(header, rows, 'llrrrrr')}\n\n`{result['environment']['command']}` on "
        f"{result['environment']['device']}{emulated}: batches of {result['batch_size']}, {result['steps']} "
        f"steps; the mean loss is that of the last {LAST}."
    )


def main() -> int:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--out", type=Path, default=RESULTS)
    flags.add_argument("--batch-size", type=count, default=8)
    flags.add_argument("--steps", type=count, default=60)
    args = flags.parse_args()
    emulated = jax.default_backend() == "cpu"
    if emulated:
        emulate_tensorfloat32()
    result = {
        "schema": "partoken.precision/1",
        "environment": {
            **environment(),
            "command": " ".join(["python -m experiments.precision", *sys.argv[1:]]),
        },
        "tensorfloat32_emulated": emulated,
        **compare(settings(args.batch_size), args.steps),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"precision_{jax.default_backend()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path, flush=True)
    return 0


if __name__ == "__main__":
    run_script(main)
