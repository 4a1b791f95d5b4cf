"""Where the time goes: measure, attribute to components, compare with the hardware, report."""

from partoken_jax.timing.analysis import analyse
from partoken_jax.timing.breakdown import break_down, program_cost
from partoken_jax.timing.measure import compile_program, interleave
from partoken_jax.timing.plots import plot_components, plot_sweeps
from partoken_jax.timing.report import markdown, sweep_markdown
from partoken_jax.timing.sweeps import SWEEPS, run_sweep

__all__ = [
    "SWEEPS",
    "analyse",
    "break_down",
    "compile_program",
    "interleave",
    "markdown",
    "plot_components",
    "plot_sweeps",
    "program_cost",
    "run_sweep",
    "sweep_markdown",
]
