"""What many devices tell each other in a training step, and what a step would take on them.

    python -m experiments.scaling [--devices 8] [--out experiments/results/scaling]

The bytes are counted in the program that is compiled for so many virtual CPU devices, at the published
widths; they depend neither on the proteins nor on the kind of device. The times are modelled, not measured:

    T(N) = T(1) / N + 2 (N - 1) / N · bytes / bandwidth

N devices share a batch of 64 proteins of 300 residues, and a ring all-reduce sends and receives
2 (N - 1) / N of its bytes. Latency, uneven shards and padding are left out, and nothing overlaps.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.result_files import read
from partoken_jax.tables import markdown_table

RESULTS = Path(__file__).parent / "results" / "scaling"
COUNTS = (1, 2, 4, 8, 16, 32)
ONE_DEVICE = {"H100": ("h100", "dense"), "TPU v5e": ("v5e", "blocks")}
"""Device and form of the compiled step of ParToken in float32 at 64 x 300 residues whose estimate is T(1)."""
LINKS = {
    "H100, NVLink 4": ("H100", 450.0, "900 GB/s to and fro (NVIDIA, H100 data sheet)"),
    "H100, PCIe 5 x16": ("H100", 64.0, "128 GB/s to and fro (NVIDIA, H100 data sheet)"),
    "TPU v5e, ICI": ("TPU v5e", 200.0, "400 GB/s to and fro (Google Cloud, TPU v5e)"),
    "H100, 100 Gbit Ethernet": ("H100", 12.5, "100 Gbit/s, one card for each device"),
}
"""Devices and their link: gigabytes per second in one direction, and who says so."""
ALL_REDUCE = re.compile(r" = (\S.*?) all-reduce(?:-start)?\(")
ARRAY = re.compile(r"\b[fs]32\[([\d,]*)\]")


def counted(devices: int) -> dict[str, Any]:
    """The all-reduces of a step of both models and stages on so many virtual devices."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import numpy as np

    from partoken_jax.config import DataConfig, ModelConfig, TrainConfig
    from partoken_jax.training.data import load_run_data
    from partoken_jax.training.devices import data_mesh, num_shards
    from partoken_jax.training.report import environment
    from partoken_jax.training.schedules import epoch_settings
    from partoken_jax.training.state import abstract_state
    from partoken_jax.training.step import make_train_step

    # What the program sends does not depend on how well the rest of it is optimised.
    jax.config.update("jax_disable_most_optimizations", True)
    mesh = data_mesh(None)
    rows = []
    for kind in ("gvp", "partoken"):
        data = DataConfig(batch_size=devices, max_train=devices, max_length=60, too_long="crop", max_eval=8)
        config = TrainConfig(model=ModelConfig(kind=kind), data=data)
        run_data = load_run_data(config, num_shards(mesh))
        batch = next(run_data.loaders["train"].epoch(0))
        graphdef, state = abstract_state(config)
        settings = epoch_settings(config, 0, 0, 1, has_codebook=False)[0]
        for stage in (0, 1) if kind == "partoken" else (0,):
            step = make_train_step(graphdef, bypass_codebook=stage == 0, mesh=mesh)
            text = step.lower(state, batch, settings).compile().as_text()  # type: ignore[attr-defined]
            sizes = [
                sum(4 * int(np.prod([int(n) for n in dims.split(",") if n])) for dims in ARRAY.findall(shape))
                for shape in ALL_REDUCE.findall(text)
            ]
            parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
            name = {"gvp": "GVP", "partoken": f"ParToken, stage {stage}"}[kind]
            rows.append(
                {
                    "model": name,
                    "parameters": parameters,
                    "all_reduces": len(sizes),
                    "bytes": sorted(sizes),
                    "bytes_per_step": sum(sizes),
                }
            )
            print(f"{name}: {len(sizes)} all-reduces of {sorted(sizes)} bytes", flush=True)
    return {"rows": rows, "environment": environment()}


def step_ms() -> dict[str, float]:
    """T(1) of every device, compiled and not run (docs/COMPILED.md)."""
    steps = {
        (row["device"], row["form"]): row["estimate_ms"]
        for row in read("compiled", "summary.json")["rows"]
        if (row["model"], row["pass"], row["precision"]) == ("partoken", "train_step", "float32")
    }
    return {name: steps[program] for name, program in ONE_DEVICE.items()}


def modelled(size: int, one: Mapping[str, float]) -> list[dict[str, Any]]:
    """Modelled times of a step that sums `size` bytes, for every link and number of devices, from those of
    one device."""
    return [
        {
            "link": link,
            "devices": count,
            "compute_ms": (compute := one[device] / count),
            "all_reduce_ms": (sums := 2 * (count - 1) / count * size / (1e6 * bandwidth)),
            "step_ms": compute + sums,
            "speed_up": one[device] / (compute + sums),
        }
        for link, (device, bandwidth, _) in LINKS.items()
        for count in COUNTS
    ]


def report(result: dict[str, Any]) -> str:
    rows, times, one = result["rows"], result["modelled"], result["step_ms_of_one_device"]
    sums = markdown_table(
        ("step", "parameters", "all-reduces", "bytes of each", "bytes per step"),
        [
            (r["model"], f"{r['parameters']:,}", r["all_reduces"], " + ".join(f"{b:,}" for b in r["bytes"]),
             f"{r['bytes_per_step']:,}")
            for r in rows
        ],
    )  # fmt: skip
    steps = markdown_table(
        ("ms per step (speed-up)", *(f"{count} devices" if count > 1 else "1 device" for count in COUNTS)),
        [
            (link, *(f"{t['step_ms']:.2f} ({t['speed_up']:.1f})" for t in times if t["link"] == link))
            for link in LINKS
        ],
    )
    sources = "\n".join(
        f"- {link}: {bandwidth} GB/s in one direction; {source}. One device: {one[device]:.1f} ms by the "
        "estimate of its compiled step (docs/COMPILED.md)."
        for link, (device, bandwidth, source) in LINKS.items()
    )
    return (
        f"# Many devices\n\nMade by `{result['command']}`.\n\n"
        "## Bytes that are summed over the devices in a training step\n\n"
        f"Counted in the programs compiled for {result['devices']} virtual CPU devices, at the published "
        f"widths.\n\n{sums}\n\n"
        "## Time of a step of ParToken in stage 1: modelled, not measured\n\n"
        "A batch of 64 proteins of 300 residues, shared by all devices: T(N) = T(1) / N + 2 (N - 1) / N · "
        f"bytes / bandwidth, without latency, uneven shards and padding.\n\n{steps}\n\n{sources}\n"
    )


def draw(times: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for link in LINKS:
        speed_ups = [row["speed_up"] for row in times if row["link"] == link]
        axes.plot(COUNTS, speed_ups, "o-", label=link)
    axes.plot(COUNTS, COUNTS, "k:", label="as many times as devices")
    axes.set(xscale="log", yscale="log", xticks=COUNTS, yticks=COUNTS, xlabel="devices", ylabel="speed-up")
    axes.set_xticklabels(list(map(str, COUNTS)))
    axes.set_yticklabels(list(map(str, COUNTS)))
    axes.minorticks_off()
    axes.set_title("ParToken, 64 x 300 residues: modelled, not measured")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--devices", type=int, default=8, help="Virtual devices to compile the step for.")
    flags.add_argument("--out", type=Path, default=RESULTS, help="The folder for the results.")
    args = flags.parse_args()
    found, one = counted(args.devices), step_ms()
    result = {
        "schema": "partoken.scaling/1",
        "command": " ".join(["python -m experiments.scaling", *sys.argv[1:]]),
        "devices": args.devices,
        **found,
        "links_gb_per_s": {link: bandwidth for link, (_, bandwidth, _) in LINKS.items()},
        "step_ms_of_one_device": one,
        "modelled": modelled(found["rows"][-1]["bytes_per_step"], one),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "scaling.md").write_text(report(result))
    draw(result["modelled"], args.out / "scaling.png")


if __name__ == "__main__":
    main()
