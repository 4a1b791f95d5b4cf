"""Tables of what the models have learned, for the documents."""

from typing import Any

from partoken_jax.tables import markdown_table

FORMS = {
    "backbone": "sees the backbone alone",
    "types": "sees types, of which training hides a random share",
}
"""By pretraining run: what its model is given."""
PUBLISHED = (
    ("GVP (Jing et al. 2021), one type after the other, CATH 4.2", "all", "1,120", "0.402", "5.3"),
    ("Structured Transformer (Ingraham et al. 2019), likewise", "all", "1,120", "0.364", "6.85"),
)
"""Other data and another task: their decoders see the types before the one they predict."""


def pretrained(reports: dict[str, dict[str, Any]]) -> str:
    """How well types are told on the test split, by pretraining run."""
    rows: list[tuple[object, ...]] = []
    for name, report in reports.items():
        for found in report["test"]["recovery"]:
            hidden = "all" if found["hidden"] == 1 else f"{found['hidden']:.0%}"
            rows.append(
                (
                    f"ours, {FORMS[name]}",
                    hidden,
                    f"{found['proteins']:,}",
                    f"{found['recovery']:.3f} ({found['recovery_low']:.3f} to {found['recovery_high']:.3f})",
                    f"{found['perplexity']:.2f} "
                    f"({found['perplexity_low']:.2f} to {found['perplexity_high']:.2f})",
                )
            )
    majority = next(iter(reports.values()))["test"]["recovery"][0]
    rows.append(
        (
            "always the most frequent type",
            "all",
            f"{majority['proteins']:,}",
            f"{majority['majority_share']:.3f}",
            "",
        )
    )
    header = (
        "model",
        "types hidden",
        "test proteins",
        "recovery (95% interval)",
        "perplexity (95% interval)",
    )
    return markdown_table(header, [*rows, *PUBLISHED])
