"""Case 4 and the partitioner's part of case 7: discrete decisions, soft assignments, gradients."""

from types import ModuleType

import numpy as np

from experiments.parity.compare import FORWARD, GRADIENT, Report
from experiments.parity.framework import Arrays
from experiments.parity.vectors import Settings, Unusable, Vectors, need_weights, temperature
from partoken_jax.config import ModelConfig, PartitionerConfig

CARDINALITY_WEIGHT = 0.005  # `card_loss` was recorded times the published weight
# Gradients that are 0 in exact arithmetic and rounding noise in practice.
ZERO_GRADIENTS = ("seed_selector.layers.1.bias", "partitioner.seed_selector.layers.1.bias")


class Padding:
    """Maps between flat residues [M] and the recorded padded arrays [B, N]."""

    def __init__(self, batch: np.ndarray):
        self.protein = batch
        self.size = np.bincount(batch)
        self.place = np.arange(len(batch)) - (np.cumsum(self.size) - self.size)[batch]

    def flat(self, padded: np.ndarray) -> np.ndarray:
        """[..., B, N] → [..., M]"""
        return padded[..., self.protein, self.place]

    def padded(self, flat: np.ndarray, like: tuple[int, ...]) -> np.ndarray:
        """[..., M] → [..., B, N], zeros on padding."""
        out = np.zeros((*flat.shape[:-1], *like), flat.dtype)
        out[..., self.protein, self.place] = flat
        return out

    def members(self, cluster_of_residue: np.ndarray, like: tuple[int, ...]) -> np.ndarray:
        """int [M], -1 for none → bool [B, N, S]"""
        cluster = self.padded(cluster_of_residue + 1, like[:2]) - 1
        return cluster[..., None] == np.arange(like[2])


def check_partitioner(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 4, every variant, in every form."""
    batch, mask = v["in.batch"], v["in.mask"]
    dense_index = v.recorded("in.dense_index")
    if dense_index is not None and not np.array_equal(dense_index[mask], np.arange(len(batch))):
        raise Unusable("its in.dense_index is not the order of packing that in.mask and in.batch describe")
    for variant in map(str, v["variants"]):
        if v.holds(variant):
            _check_variant(variant, v, report, side)


def _check_variant(variant: str, v: Vectors, report: Report, side: ModuleType) -> None:
    inputs, weights, config = v.under("in"), v.under("w"), v.config
    batch, mask = inputs["batch"], inputs["mask"]
    padding, case = Padding(batch), v.under(variant)
    setting = dict(part.split("=") for part in _readable(variant).split())
    partitioner_config = PartitionerConfig(
        max_clusters=config["max_clusters"],
        hidden=config["hidden_dim"],
        k_hop=int(setting["k_hop"]),
        cluster_size_max=int(setting["size"]),
        termination_threshold=float(setting["threshold"]),
    )
    width = inputs["x"].shape[-1]
    whole = ModelConfig(
        kind="partoken", node_hidden=(width, 1), attention_heads=1, partitioner=partitioner_config
    )
    need_weights(weights, whole, "partitioner.")
    heat = temperature(Settings({**config, "epoch": int(setting["epoch"])}))
    rounds, want, cotangents = len(case["uniform"]), case.under("g"), {}
    if case.holds("g"):
        cotangents = inputs.all_recorded({"features": "cotangent"})
    if cotangents:
        cotangents["features"] = cotangents["features"].copy()
        cotangents["features"][:, rounds:] = 0
    for form in side.MODEL_FORMS:
        title = f"{variant} {form}"
        result = side.partitioner(
            form,
            partitioner_config,
            weights,
            {"x": inputs["x"][mask]},
            inputs["edge_index"],
            batch,
            temperature=heat,
            uniform=all_rounds(padding.flat(case["uniform"]), partitioner_config.max_clusters),
            cotangents=cotangents,
        )
        out = result.outputs
        report.relative(title, "temperature", "tau", heat, case.recorded("tau"), FORWARD)
        check_rounds(title, out, case, padding, report)
        got = config.get("lambda_card", CARDINALITY_WEIGHT) * out["cardinality"]
        report.relative(title, "forward", "card_loss", got, case.recorded("card_loss"), FORWARD)
        compare_features(title, out["features"], case.recorded("cluster_features"), report)
        if cotangents:
            g_x = want.recorded("x")
            if g_x is not None:
                report.relative(title, "gradients", "g.x", result.inputs["x"], g_x[mask], GRADIENT)
            parameters = want.without("x")
            report.gradients(
                title, "gradients", result.parameters, parameters, weights, "partitioner.", ZERO_GRADIENTS
            )


def _readable(variant: str) -> str:
    """ "ep0_kh1_csm3_thr0.95" → "epoch=0 k_hop=1 size=3 threshold=0.95" """
    names = {"ep": "epoch", "kh": "k_hop", "csm": "size", "thr": "threshold"}
    parts = [(part.rstrip("0123456789."), part) for part in variant.split("_")]
    return " ".join(f"{names[name]}={part.removeprefix(name)}" for name, part in parts)


def all_rounds(recorded: np.ndarray, rounds: int) -> np.ndarray:
    """Recorded noise [S', N]; rounds after an early stop of the original get any noise at all, and what is
    recorded beyond the last round is not used."""
    recorded = recorded[:rounds]
    missing = rounds - recorded.shape[0]
    return np.concatenate([recorded, np.full((missing, recorded.shape[1]), 0.5, recorded.dtype)])


def compare_features(title: str, got, want: np.ndarray | None, report: Report) -> None:
    """Cluster features; clusters after an early stop of the original must be 0."""
    if want is None:
        return
    rounds = want.shape[1]
    report.relative(title, "forward", "cluster_features", got[: len(want), :rounds], want, FORWARD)
    report.absolute(title, "forward", "later clusters", got[:, rounds:], np.zeros_like(got[:, rounds:]), 0.0)


def compare_members(
    title: str, name: str, cluster_of_residue, want: np.ndarray | None, padding: Padding, report: Report
) -> None:
    """The cluster of every residue, recorded as [B, N, S]."""
    if want is not None:
        members = padding.members(cluster_of_residue, want.shape)
        report.exact(title, "decisions", name, members, want.astype(bool))


def check_rounds(title: str, out: Arrays, case: Vectors, padding: Padding, report: Report) -> None:
    """Seeds, members, soft assignments, thresholds, φ, z and trimming of every round."""
    seeds = case.recorded("seeds")
    if seeds is not None:
        first = np.cumsum(padding.size) - padding.size
        local = np.where(out["seed"] >= 0, out["seed"] - first, -1)
        report.exact(title, "decisions", "seeds", local[: len(seeds)], seeds)
        later = local[len(seeds) :]
        report.exact(title, "decisions", "no later seeds", later, np.full_like(later, -1))

    def recorded(name: str) -> np.ndarray | None:
        """Of the rounds before an early stop of the original, where the seeds tell."""
        array = case.recorded(name)
        return array if array is None or seeds is None else array[: len(seeds)]

    trimmed = recorded("trimmed")
    if trimmed is not None:
        report.exact(title, "decisions", "trimmed", out["trimmed"][: len(trimmed)], trimmed)
    compare_members(
        title, "assignment", out["cluster_of_residue"], case.recorded("assignment"), padding, report
    )
    soft_p = recorded("soft_p")
    if soft_p is not None:
        got = padding.padded(out["soft_p"], soft_p.shape[1:])[: len(soft_p)]
        report.relative(title, "forward", "soft_p", got, soft_p, FORWARD)
    theta, phi, z_frac = recorded("theta"), recorded("phi"), recorded("z_frac")
    # θ and φ are NaN where the original did not run the expander, z is NaN or 0.
    if theta is not None:
        ran = np.isfinite(theta)
    elif phi is not None:
        ran = np.isfinite(phi).all(-1)
    elif z_frac is not None:
        ran = np.nan_to_num(z_frac).any(-1)
    else:
        return
    for name, array in (("theta", theta), ("phi", phi)):
        if array is not None:
            report.relative(title, "forward", name, out[name][: len(array)][ran], array[ran], FORWARD)
    if z_frac is not None:
        z = padding.padded(out["link_share"], z_frac.shape[1:])[: len(z_frac)]
        real = padding.padded(np.ones(len(padding.protein), bool), z.shape[1:])
        known = ran[..., None] & np.isfinite(z_frac) & real
        report.relative(title, "forward", "z_frac", z[known], z_frac[known], FORWARD)
