"""The recommendations of the published timing analysis, each held against what was measured."""

from typing import Any

from partoken_jax.tables import markdown_table

TESTED_BY = {
    "gradient checkpointing": ("rematerialisation", None),
    "mixed precision": ("precision", None),
    "a simpler partitioner": ("clusters", ("25 clusters, 1 hop", "5 clusters, 3 hops")),
}
"""Recommendation → the sweep that tests it, and the settings of that sweep that say enough (None: all)."""

SAME = 0.05
"""Relative differences below this count as none: one program run twice may differ by as much."""


def recommendations_markdown(result: dict[str, Any]) -> str:
    """A table of the recommendations that the sweeps of a result test; "" where they test none."""
    sweeps = result.get("sweeps", {})
    lines = _larger_batches(sweeps["batch"]["rows"]) if "batch" in sweeps else []
    for recommended, (name, chosen) in TESTED_BY.items():
        if name not in sweeps:
            continue
        rows = {row["label"]: row for row in sweeps[name]["rows"]}
        for pair, ratio in sweeps[name]["ratios"].items():
            above, below = pair.split(" / ")
            if chosen is not None and above.split(", ", 1)[1] not in chosen:
                continue
            memory = rows[above]["temp_bytes"] / rows[below]["temp_bytes"]
            lines.append(_line(recommended, pair, ratio["median"], ratio["quartiles"], f"{memory:.2f}"))
    if not lines:
        return ""
    header = ("recommended", "compared", "time", "quartiles", "peak memory", "verdict")
    table = markdown_table(header, lines, "llrrrl")
    return "\n".join(["## The published recommendations, tested", "", table, ""])


def _larger_batches(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Per protein, the largest batch that ran against the smallest, for each model. The two did not take
    turns, so the quartiles are the worst cases of both."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        ran = [row for row in rows if row["model"] == model and row["status"] == "ok"]
        if len(ran) < 2:
            continue
        small, large = ran[0], ran[-1]
        size = small["batch_size"] / large["batch_size"]
        low = size * large["quartiles_ms"][0] / small["quartiles_ms"][1]
        high = size * large["quartiles_ms"][1] / small["quartiles_ms"][0]
        lines.append(
            _line(
                "larger batches",
                f"{large['label']} / {small['label']}, per protein",
                size * large["median_ms"] / small["median_ms"],
                [low, high],
                f"{large['temp_bytes'] / small['temp_bytes']:.2f}",
            )
        )
    return lines


def _line(
    recommended: str, compared: str, median: float, quartiles: list[float], memory: str
) -> tuple[str, ...]:
    low, high = quartiles
    shown = abs(median - 1) > SAME
    verdict = "faster" if shown and high < 1 else "slower" if shown and low > 1 else "no difference shown"
    return recommended, compared, f"{median:.2f}", f"{low:.2f} to {high:.2f}", memory, verdict
