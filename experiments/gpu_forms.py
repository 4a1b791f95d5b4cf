"""What the choices in the dense form gain on a GPU: a step compiled for an H100, each undone in turn.

    pip install -e '.[cuda13]'    # no GPU is needed
    python -m experiments.gpu_forms --json experiments/results/compiled/gpu_forms.json

GVP, 64 chains of 300 residues, float32. Nothing is run: bytes, memory and estimates are read from what XLA's
compiler for the device makes. A program takes it about a minute.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.compiled import PROTEINS, RESIDUES
from experiments.conv_forms import DENSE, Patches, packed_nodes, packed_rows, patched, two_products
from experiments.flags import Flags, output, run_script
from partoken_jax.config import ModelConfig
from partoken_jax.files import write_whole
from partoken_jax.nn import encoder, gather
from partoken_jax.nn.gather import ReverseNeighbours
from partoken_jax.progress import say
from partoken_jax.tables import markdown_table
from partoken_jax.timing.compiled import (
    DEVICES,
    compile_step,
    missing_compiler,
    program_cost_on,
    use_compilers,
)

DEVICE = "h100"
PRESENT = "the present form"


def read_at_once(gradient: jax.Array, neighbours: jax.Array, reverse: ReverseNeighbours) -> jax.Array:
    """`senders_gradient` from an array of all places of the reverse table."""
    flat = gradient.reshape(neighbours.size, *gradient.shape[2:])
    rows = flat.at[reverse.edge].get(mode="fill", fill_value=0)
    return jnp.sum(rows, axis=1, dtype=jnp.float32).astype(flat.dtype)


SCAN = jax.lax.scan


def rolled(*arguments: Any, unroll: bool = False, **options: Any) -> Any:
    """`jax.lax.scan` that stays a loop."""
    return SCAN(*arguments, **options)


FORMS: dict[str, tuple[dict[str, Any], Patches]] = {
    PRESENT: ({}, {}),
    "layers computed again in the backward pass": ({"rematerialise": "layer"}, {}),
    "all kept, with the layers in a loop": ({}, {(jax.lax, "scan"): rolled}),
    "rows in no whole blocks": ({}, {(encoder, "FEWEST_BLOCKS"): 10**9}),
    "the senders' gradient from an array of all places": ({}, {(gather, "senders_gradient"): read_at_once}),
    "two products for an edge's scalars and norms": ({}, {(DENSE, "_sum_of_products"): two_products}),
    "the senders' scalars and vectors packed in one row": (
        {},
        {(DENSE, "_project_nodes"): packed_nodes, (DENSE, "_gather"): packed_rows},
    ),
}
"""Settings, and what is replaced."""


def row(name: str) -> dict[str, Any]:
    """What the compiler says of a form."""
    settings, patches = FORMS[name]
    with patched(patches):
        model = ModelConfig(message_passing="dense", **settings)
        found = compile_step(
            DEVICES[DEVICE], "train_step", "gvp", model, proteins=PROTEINS, residues=RESIDUES
        )
    cost = program_cost_on(DEVICES[DEVICE], "float32", found.text)
    numbers = {key: cost[key] for key in ("bytes", "flops", "estimate_ms")}
    return {
        "form": name,
        **numbers,
        "peak_bytes": found.facts["peak_bytes"],
        "versions": found.facts["versions"],
    }


def table(result: dict[str, Any]) -> str:
    """Every form's bytes, estimate and memory."""
    rows = [
        (
            found["form"],
            f"{found['bytes'] / 1e9:.1f} GB",
            f"{found['estimate_ms']:.1f} ms",
            f"{found['peak_bytes'] / 1e9:.1f} GB",
        )
        for found in result["rows"]
    ]
    header = ("GVP's training step on an H100, compiled, not run", "moved", "estimate", "peak memory")
    return f"{markdown_table(header, rows, 'lrrr')}\n\n`{result['command']}`"


def main() -> int:
    flags = Flags(prog="python -m experiments.gpu_forms", description=__doc__)
    flags.add_argument("--json", type=output, required=True, help="Where to write the result.")
    args = flags.parse_args()
    if reason := missing_compiler(DEVICES[DEVICE]):
        flags.error(reason)
    use_compilers()
    rows = []
    for name in FORMS:
        say(f"compiling {name}")
        rows.append(row(name))
        jax.clear_caches()
    result = {
        "schema": "partoken.gpu_forms/1",
        "command": f"python -m experiments.gpu_forms --json {args.json}",
        "run": False,
        "rows": rows,
    }
    print(table(result))
    write_whole(Path(args.json), json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run_script(main)
