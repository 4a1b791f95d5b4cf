"""Rows of `measurements` and of sweeps, as experiments/results/README.md describes them."""

from typing import Any

from partoken_jax.timing.batches import TimingData
from partoken_jax.timing.breakdown import program_cost
from partoken_jax.timing.measure import Compiled, Timing
from partoken_jax.timing.programs import STAGE
from partoken_jax.timing_config import TimingConfig


def measurement(
    config: TimingConfig, data: TimingData, kind: str, name: str, compiled: Compiled, timing: Timing
) -> dict[str, Any]:
    """A row of `measurements`: one pass of one model."""
    flops, bytes_ = program_cost(compiled.text)
    return {
        "model": kind,
        "stage": STAGE,
        "pass": name,
        "batch_size": config.batch_size,
        "residues": config.residues,
        "median_ms": 1e3 * timing.median,
        "quartiles_ms": [1e3 * q for q in timing.quartiles],
        "runs": len(timing.seconds),
        "lower_s": compiled.lower_s,
        "compile_s": compiled.compile_s,
        "flops": flops,
        "bytes": bytes_,
        "xla_flops": compiled.flops,
        "xla_bytes": compiled.bytes,
        "temp_bytes": compiled.temp_bytes,
        "proteins_per_s": data.proteins / timing.median,
        "padding_share": data.padding_share,
        **settings_of(config),
    }


def settings_of(config: TimingConfig) -> dict[str, Any]:
    """The settings that a sweep may change, for a row."""
    return {
        "neighbours": config.neighbours,
        "max_clusters": config.model.partitioner.max_clusters,
        "k_hop": config.model.partitioner.k_hop,
        "message_passing": config.model.message_passing,
        "rematerialise": config.model.rematerialise,
        "sender_gradient": config.model.sender_gradient,
        "precision": config.model.precision,
    }
