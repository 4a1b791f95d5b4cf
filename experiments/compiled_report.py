"""What was compiled for TPUs and GPUs: tables, sentences and a figure, in docs/COMPILED.md and TIMING.md."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments import figures
from experiments.compare.report import MODELS, PASSES
from experiments.compiled import ASKED, DEVICES, FORMS, KEYS, PRECISIONS, PROTEINS, RESIDUES, possible
from experiments.result_files import read
from experiments.timing_tables import step_medians, wrapped
from partoken_jax.config import ModelConfig
from partoken_jax.tables import markdown_table
from partoken_jax.timing.roofline import minimum

STEPS = ("train_step", "forward")
KIND_NAMES = {
    "products": "matrix products, with what is fused to them, and kernels",
    "gathers": "gathers, scatters, sorts",
    "copies": "copies and changes of layout",
    "rest": "elementwise work and sums",
}
Row = dict[str, Any]


def rows() -> list[Row]:
    """Of every program that was compiled."""
    return read("compiled", "summary.json")["rows"]


def title(row: Row) -> str:
    """The program of a row in words, without its device."""
    return f"{MODELS[row['model']]}, {PASSES[row['pass']]}, {row['precision']}, {row['form']}"


def table() -> str:
    """One line per program."""
    lines = [
        (
            DEVICES[row["device"]].title,
            title(row),
            f"{row['peak_bytes'] / 1e9:.2f} GB",
            f"{row['reserved_bytes'] / 1e9:.2f} GB ({row['reserved_bytes'] / row['memory_bytes']:.0%})",
            f"{row['flops'] / 1e9:,.0f}",
            f"{row['bytes'] / 1e9:,.2f}",
            f"{row['compute_ms']:.1f} ms",
            f"{row['memory_ms']:.1f} ms",
            f"{row['estimate_ms']:.1f} ms",
            ", ".join(f"{count} {name}" for name, count in row["collectives"].items()) or "none",
        )
        for row in rows()
    ]
    header = ["device", "program", "peak memory", "reserved", "GFLOP", "GB"]
    header += ["by arithmetic", "by bytes", "estimate", "collectives"]
    found = rows()
    versions = sorted({f"{name} {v}" for row in found for name, v in row["versions"].items()})
    host = sum(row["host_calls"] for row in found)
    loops = sum(row["uncounted_loops"] for row in found)
    said = (
        f"Compiled, not run: {found[0]['proteins']} proteins of {found[0]['residues']} residues, all columns "
        f"for one chip ({', '.join(versions)}). {f'{host} places wait' if host else 'No program waits'} for "
        f"the host. {f'{loops} loops count' if loops else 'No loop counts'} once because nothing tells how "
        "often it runs."
    )
    return f"{markdown_table(header, lines, 'llrrrrrrrl')}\n\n{wrapped(said)}"


def not_done() -> str:
    """Which of the wanted programs have no row."""
    there = {tuple(row[key] for key in KEYS) for row in rows()}
    wanted = itertools.product(ASKED, MODELS, STEPS, PRECISIONS, FORMS)
    missing = [
        row for names in wanted if names not in there and possible(row := dict(zip(KEYS, names, strict=True)))
    ]
    if not missing:
        return "Every wanted program is compiled."
    models: dict[tuple[str, ...], list[str]] = {}
    for row in missing:
        what = (row["device"], f"{PASSES[row['pass']]}, {row['precision']}, {row['form']}")
        models.setdefault(what, []).append(MODELS[row["model"]])
    by_device: dict[str, list[str]] = {}
    for (device, words), kinds in models.items():
        by_device.setdefault(DEVICES[device].title, []).append(f"{words} ({' and '.join(kinds)})")
    named = "; ".join(f"{device}: {' · '.join(parts)}" for device, parts in by_device.items())
    return wrapped(
        f"Not compiled yet, {len(missing)} of the wanted programs. {named}. `python -m experiments.compiled` "
        "goes on with them."
    )


def model_ratios() -> str:
    """ParToken over GVP, by each way to look at the compiled programs."""
    by_key = {tuple(row[key] for key in KEYS): row for row in rows()}
    lines = []
    for key, row in by_key.items():
        base = by_key.get((key[0], "gvp", *key[2:]))
        if row["model"] != "partoken" or base is None:
            continue
        keys = ("reserved_bytes", "flops", "bytes", "estimate_ms", "operations")
        lines.append(
            (
                DEVICES[row["device"]].title,
                f"{PASSES[row['pass']]}, {row['precision']}, {row['form']}",
                *(f"{row[name] / base[name]:.3f}" for name in keys),
            )
        )
    header = (
        "device",
        "ParToken / GVP, compiled, not run",
        "reserved",
        "FLOPs",
        "bytes",
        "estimate",
        "launches",
    )
    return markdown_table(header, lines, "llrrrrr")


def component_table() -> str:
    """What the components of the float32 training steps move, and how long by the estimate."""
    chosen = steps_shown()
    names = shown_components(chosen)
    lines = [(name, *_cells(chosen, {name})) for name in names]
    rest = {c["name"] for row in chosen for c in row["components"]} - set(names)
    lines.append(("all others", *_cells(chosen, rest)))
    header = (
        "component: GB, estimate",
        *(f"{DEVICES[r['device']].title}, {MODELS[r['model']]}" for r in chosen),
    )
    return markdown_table(header, lines)


def kinds() -> str:
    """What the training steps do with their time and their bytes, by kind of operation."""
    chosen = [row for row in rows() if row["pass"] == "train_step" and row["chips"] == 1]
    lines = [
        (
            f"{DEVICES[row['device']].title}, {MODELS[row['model']]}, {row['precision']}, {row['form']}",
            *(
                f"{kind['ms'] / row['estimate_ms']:.0%}, {kind['bytes'] / row['bytes']:.0%}"
                for kind in row["kinds"]
            ),
        )
        for row in chosen
    ]
    return markdown_table(("share of the estimate, of the bytes", *KIND_NAMES.values()), lines)


def steps_shown() -> list[Row]:
    """Training steps in float32 on one chip, without kernels of ours: in the form that is the default."""
    wanted = {"pass": "train_step", "precision": "float32", "chips": 1}
    found = [row for row in rows() if row["form"] != "fused"]
    return [row for row in found if all(row[key] == value for key, value in wanted.items())]


def shown_components(chosen: Iterable[Row], least: float = 0.02) -> list[str]:
    """The components that take so much of any of the steps, by the estimate."""
    largest: dict[str, float] = {}
    for row in chosen:
        for component in row["components"]:
            share = component["ms"] / row["estimate_ms"]
            largest[component["name"]] = max(share, largest.get(component["name"], 0.0))
    return sorted(
        (name for name, share in largest.items() if share >= least), key=lambda name: -largest[name]
    )


def _cells(chosen: Iterable[Row], names: set[str]) -> list[str]:
    cells = []
    for row in chosen:
        mine = [c for c in row["components"] if c["name"] in names]
        moved, ms = sum(c["bytes"] for c in mine), sum(c["ms"] for c in mine)
        cells.append(f"{moved / 1e9:.2f}, {ms:.2f} ms")
    return cells


def layers() -> str:
    """Bytes of one conv layer, its messages and their gradient, in every form."""
    found = read("compiled", "fused_layer.json")["rows"].values()
    cells = {(*_layer_key(row), row["what"], row["form"]): f"{row['bytes'] / 1e9:.2f} GB" for row in found}
    lines = []
    for device, precision, proteins in dict.fromkeys(map(_layer_key, found)):
        name = f"{DEVICES[device].title}, {precision}, {proteins} proteins"
        columns = itertools.product(("forward", "gradient"), FORMS)
        lines.append((name, *(cells.get((device, precision, proteins, *column), "") for column in columns)))
    whats = itertools.product(("messages", "gradient"), FORMS)
    header = ("compiled, not run", *(f"{what}, {form}" for what, form in whats))
    return markdown_table(header, lines, "l" + "r" * (len(header) - 1))


def tpu_forms() -> str:
    """GVP's training step on a TPU in the dense form, as it was compiled with an earlier commit, and in those
    of today."""
    before = read("compiled", "tpu_dense.json")
    found = {tuple(row[key] for key in KEYS): row for row in (*before["rows"], *rows())}
    lines = []
    for row in before["rows"]:
        of_forms = [found[(*(row[key] for key in KEYS[:-1]), form)] for form in FORMS]
        columns = [
            *(f"{x['bytes'] / 1e9:.2f} GB" for x in of_forms),
            *(f"{x['estimate_ms']:.1f} ms" for x in of_forms),
            *(f"{x['reserved_bytes'] / 1e9:.2f} GB" for x in of_forms),
        ]
        lines.append((f"{DEVICES[row['device']].title}, {row['precision']}", *columns))
    whats = itertools.product(("moved", "estimate", "reserved"), FORMS)
    header = ("GVP's training step, compiled, not run", *(f"{what}, {form}" for what, form in whats))
    command = f"`{before['command']}` with commit {before['commit']} for the dense form"
    return f"{markdown_table(header, lines, 'l' + 'r' * (len(header) - 1))}\n\n{command}"


def _layer_key(row: Row) -> tuple[str, str, int]:
    return row["device"], row["precision"], row["proteins"]


def layer_errors() -> str:
    """Of the fused messages, interpreted."""
    result = read("compiled", "fused_layer.json")
    lines = []
    for precision, of_tpu in result["errors"].items():
        of_gpu = result["gpu_errors"][precision]
        columns = itertools.product((of_tpu, of_gpu), ("messages", "gradients"))
        lines.append((precision, *(f"{x[what]:.1e}" for x, what in columns)))
    header = ("interpreted", "TPU, messages", "TPU, gradients", "GPU, messages", "GPU, gradients")
    return markdown_table(header, lines, "lrrrr")


def devices() -> str:
    """What every device is taken to be able to do."""
    used = {row["device"] for row in rows()}
    chips = {device.title.split(" × ")[-1]: device for name, device in DEVICES.items() if name in used}
    lines = [
        (
            name,
            f"{chip.memory_bytes / 1e9:.0f} GB",
            f"{chip.bytes_per_s / 1e9:,.0f} GB/s",
            *(f"{chip.flops_per_s[precision] / 1e12:.1f}" for precision in PRECISIONS),  # type: ignore[index]
        )
        for name, chip in chips.items()
    ]
    header = ("one chip", "memory", "bytes", *(f"TFLOP/s, {p}" for p in PRECISIONS))
    sources = "; ".join(f"{name}: {chip.source}" for name, chip in chips.items())
    return f"{markdown_table(header, lines)}\n\n{wrapped(f'{sources}.')}"


def measured_and_compiled() -> str:
    """The training step as measured on a CPU, as compiled for accelerators, and the least that it needs."""
    batch = read("timing", "batch64.json")
    proteins, residues = rows()[0]["proteins"], rows()[0]["residues"]
    ceilings = batch["ceilings"]
    measured = step_medians()
    found = {(row["device"], row["model"]): row for row in steps_shown()}
    lines = []
    for model in MODELS:
        least = minimum(
            ModelConfig(), proteins * residues, 30 * proteins * residues, batch["parameters"][model]["total"]
        )
        limits = [
            1e3 * max(least["flops"] / ceilings["flops_per_s"], least["bytes"] / ceilings["bytes_per_s"])
        ]
        for name in ("h100", "v5e"):
            device = DEVICES[name]
            ms = max(least["flops"] / device.flops_per_s["float32"], least["bytes"] / device.bytes_per_s)
            limits.append(1e3 * ms)
        cells = [_compiled_cell(found.get((name, model))) for name in ("h100", "v5e")]
        lines.append(
            (
                MODELS[model],
                f"{measured[model]['jax_fast'][str(proteins)]:,.0f} ms",
                *cells,
                "{:,.0f} · {:.1f} · {:.1f} ms".format(*limits),
            )
        )
    header = [f"training step, {proteins} × {residues}, float32", "measured on CPU", "compiled for H100"]
    header += ["compiled for v5e", "limit: CPU · H100 · v5e"]
    low, high = device_over_estimate()
    said = wrapped(
        "Only the CPU's column was measured. The others are [compiled, not run](COMPILED.md): the time of "
        f"all bytes or arithmetic, in brackets summed over operations, of which an H100 took {low:.1f} to "
        f"{high:.1f} times for an older form. Limit: were every layer one perfect kernel."
    )
    return f"{markdown_table(header, lines)}\n\n{said}"


def device_over_estimate() -> tuple[float, float]:
    """The least and the most that an H100 took over the estimates of what was measured."""
    steps = h100_steps()
    factors = [steps[model] / MEASURED_FORM[model] for model in MODELS]
    return min(factors), max(factors)


def h100_steps() -> dict[str, float]:
    """Milliseconds of a training step that were measured on an H100, by model."""
    rows = read("gpu", "h100_batch64.json")["measurements"]
    return {row["model"]: row["median_ms"] for row in rows if row["pass"] == "train_step"}


def _compiled_cell(row: Row | None) -> str:
    return (
        "not compiled yet" if row is None else f"{row['predicted_ms']:.1f} ms ({row['estimate_ms']:.0f} ms)"
    )


MEASURED_FORM = {"gvp": 28.0, "partoken": 28.3}
"""Estimates, in milliseconds, of the form that ran on an H100, of the rows of commit 31cf7e7: layers were
computed again, and batches were not filled up. Nobody has run the present form on one."""


def against_a_measurement() -> str:
    """The one measurement that there is on an H100 beside the estimates of what was measured."""
    result, steps = read("gpu", "h100_batch64.json"), h100_steps()
    names = " and ".join(MODELS.values())
    estimates = " and ".join(f"{MEASURED_FORM[model]:.0f}" for model in MODELS)
    took = " and ".join(f"{steps[model]:.0f}" for model in MODELS)
    low, high = device_over_estimate()
    return wrapped(
        f"One check against a device there is: on an H100 the training steps of {names} for 64 real chains, "
        f"{result['data']['residues']:,} residues, took {took} ms, with jax {result['environment']['jax']} "
        "([Timing](TIMING.md)). That was before a GPU's step was "
        "[made smaller](#what-made-a-gpus-step-smaller): "
        f"the estimates of that form, for {PROTEINS * RESIDUES:,} residues and another jax, were {estimates} "
        f"ms. The device took {low:.1f} to {high:.1f} times as long: an estimate says what "
        "bytes and arithmetic need at the maker's ceilings, which no program reaches, and leaves out the "
        "launches."
    )


def figure_data() -> list[Row]:
    """What the figure of docs/COMPILED.md shows: training steps on one chip."""
    keys = (*KEYS, "kinds")
    chosen = [row for row in rows() if row["pass"] == "train_step" and row["chips"] == 1]
    return [{key: row[key] for key in keys} for row in chosen]


def draw(data: list[Row], path: Path) -> None:
    """Estimates of the training steps and the bytes that they move, by kind of operation."""
    height = 1.2 + 0.32 * len(data)
    figure, panels = figures.pyplot().subplots(1, 2, figsize=(11, height), sharey=True)
    labels = [
        ", ".join((DEVICES[r["device"]].title, MODELS[r["model"]], r["precision"], r["form"])) for r in data
    ]
    for axes, what, scale in zip(panels, ("ms", "bytes"), (1.0, 1e-9), strict=True):
        for place, row in enumerate(data):
            start = 0.0
            for number, kind in enumerate(row["kinds"]):
                width = kind[what] * scale
                label = None if place else KIND_NAMES[kind["name"]]
                axes.barh(place, width, left=start, color=f"C{number}", label=label)
                start += width
        axes.set_yticks(range(len(labels)), labels)
    panels[0].invert_yaxis()
    panels[0].set_xlabel("ms per training step, estimate; compiled, not run")
    panels[1].set_xlabel("GB to and from the chip's memory; compiled, not run")
    panels[0].legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.8, -0.25))
    figures.save(figure, data, path)
