"""The JAX side of the comparison: the programs that `partoken train` and `partoken evaluate` run."""

from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.compare.batches import noise, timing_config
from experiments.compare.protocol import Prepared, Settings
from partoken_jax.convert import dotted, set_arrays
from partoken_jax.models import GVPOutput, build_model
from partoken_jax.timing.batches import timing_data
from partoken_jax.timing.programs import Pass, Program, build_program, timing_settings, train_config
from partoken_jax.training.objective import Randomness, evaluate_objective, split_model
from partoken_jax.training.state import initial_state


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def initial_weights(settings: Settings) -> dict[str, np.ndarray]:
    """Parameters and codebook by dotted path, as `build_program` starts with them."""
    config = timing_config(settings, "jax_fast")
    _, state = initial_state(train_config(config, timing_data(config), settings.model))
    return {
        dotted(path): np.asarray(variable[...])
        for part in (state.params, state.codebook)
        for path, variable in nnx.to_flat_state(part)
    }


class JaxWorker:
    """One form of message passing."""

    def __init__(self, variant: str, settings: Settings):
        config = timing_config(settings, variant)
        self.data = timing_data(config)
        self.config = train_config(config, self.data, settings.model)
        self.device = jax.devices()[0].device_kind
        self.padding_share = self.data.padding_share
        self.num_proteins = self.data.proteins
        self.programs: dict[str, Program] = {}

    def probe(self, weights: Path) -> dict[str, Any]:
        """See `protocol.Compared`."""
        model = build_model(self.config.model, rngs=nnx.Rngs(0))
        with np.load(weights) as arrays:
            set_arrays(model, dict(arrays))
        graphdef, params, codebook = split_model(model)
        settings = timing_settings(self.config)
        uniform = noise(self.config.model, len(self.data.batch.nodes.mask))

        @jax.jit
        def objective(params, codebook, graph):
            return evaluate_objective(
                graphdef, params, codebook, graph, settings.weights,
                randomness=Randomness(uniform=jnp.asarray(uniform)), temperature=settings.temperature,
            )  # fmt: skip

        found = objective(params, codebook, self.data.batch)
        out = found.output
        clusters = [] if isinstance(out, GVPOutput) else out.cluster_of_residue[: self.data.residues]
        compared = {"loss": found.losses.total, "logits": out.logits, "clusters": clusters}
        flat = {f"g.{dotted(path)}": leaf[...] for path, leaf in nnx.to_flat_state(found.gradients)}
        return {name: np.asarray(value) for name, value in (compared | flat).items()}

    def prepare(self, name: str) -> Prepared:
        """See `protocol.Worker`."""
        program = build_program(self.config, self.data.batch, cast(Pass, name))
        self.programs[name] = program
        self.run(name)
        found = program.compiled
        # One program whose results stay on the device: there is nothing to read.
        return Prepared(found.lower_s + found.compile_s, 0, found.temp_bytes)

    def inferred(self) -> np.ndarray:
        """See `protocol.Compared`."""
        return np.asarray(self.programs["forward"].call().logits)

    def run(self, name: str) -> None:
        """See `protocol.Worker`."""
        jax.block_until_ready(self.programs[name].call())

    def peak_growth(self, name: str) -> int | None:
        """See `protocol.Worker`. What XLA planned: jax's own count of a device cannot be set back."""
        return None if on_cpu() else self.programs[name].compiled.temp_bytes
