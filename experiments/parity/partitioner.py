"""Case 4 and the partitioner's part of case 7: discrete decisions, soft assignments, gradients."""

from types import ModuleType

import numpy as np

from experiments.parity.compare import FORWARD, GRADIENT, Report
from experiments.parity.framework import Arrays
from experiments.parity.vectors import Vectors, temperature
from partoken_jax.config import PartitionerConfig
from partoken_jax.convert import from_state_dict

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

    def padded(self, flat: np.ndarray, like: np.ndarray) -> np.ndarray:
        """[..., M] → [..., B, N], zeros on padding."""
        out = np.zeros((*flat.shape[:-1], *like), flat.dtype)
        out[..., self.protein, self.place] = flat
        return out

    def members(self, cluster_of_residue: np.ndarray, like: tuple[int, int, int]) -> np.ndarray:
        """int [M], -1 for none → bool [B, N, S]"""
        cluster = self.padded(cluster_of_residue + 1, like[:2]) - 1
        return cluster[..., None] == np.arange(like[2])


def check_partitioner(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 4, every variant, in every form."""
    inputs, config = v.under("in"), v.config
    batch, mask = inputs["batch"], inputs["mask"]
    padding = Padding(batch)
    # The recorded positions of residues must be the ones that packing gives.
    assert np.array_equal(inputs["dense_index"][mask], np.arange(len(batch)))
    for variant in map(str, v["variants"]):
        case = v.under(variant)
        setting = dict(part.split("=") for part in _readable(variant).split())
        partitioner_config = PartitionerConfig(
            max_clusters=config["max_clusters"],
            hidden=config["hidden_dim"],
            k_hop=int(setting["k_hop"]),
            cluster_size_max=int(setting["size"]),
            termination_threshold=float(setting["threshold"]),
        )
        heat = temperature({**config, "epoch": int(setting["epoch"])})
        rounds, want = case["cluster_features"].shape[1], case.under("g")
        cotangent = inputs["cotangent"].copy()
        cotangent[:, rounds:] = 0
        for form in side.MODEL_FORMS:
            title = f"{variant} {form}"
            report.relative(title, "forward", "tau", heat, case["tau"], FORWARD)
            result = side.partitioner(
                form,
                partitioner_config,
                v.under("w"),
                {"x": inputs["x"][mask]},
                inputs["edge_index"],
                batch,
                temperature=heat,
                uniform=all_rounds(padding.flat(case["uniform"]), partitioner_config.max_clusters),
                cotangents={"features": cotangent},
            )
            out = result.outputs
            check_rounds(title, out, case, padding, report)
            got = config.get("lambda_card", CARDINALITY_WEIGHT) * out["cardinality"]
            report.relative(title, "forward", "card_loss", got, case["card_loss"], FORWARD)
            compare_features(title, out["features"], case["cluster_features"], report)
            report.relative(title, "gradients", "g.x", result.inputs["x"], want["x"][mask], GRADIENT)
            expected = from_state_dict({k: a for k, a in want.arrays.items() if k != "x"}, "partitioner.")
            report.gradients(title, "gradients", result.parameters, expected, skip=ZERO_GRADIENTS)


def _readable(variant: str) -> str:
    """ "ep0_kh1_csm3_thr0.95" → "epoch=0 k_hop=1 size=3 threshold=0.95" """
    names = {"ep": "epoch", "kh": "k_hop", "csm": "size", "thr": "threshold"}
    parts = [(part.rstrip("0123456789."), part) for part in variant.split("_")]
    return " ".join(f"{names[name]}={part.removeprefix(name)}" for name, part in parts)


def all_rounds(recorded: np.ndarray, rounds: int) -> np.ndarray:
    """Recorded noise [S', N]; rounds after an early stop of the original get any noise at all."""
    missing = rounds - recorded.shape[0]
    return np.concatenate([recorded, np.full((missing, recorded.shape[1]), 0.5, recorded.dtype)])


def compare_features(title: str, got, want: np.ndarray, report: Report) -> None:
    """Cluster features; clusters after an early stop of the original must be 0."""
    rounds = want.shape[1]
    report.relative(title, "forward", "cluster_features", got[: len(want), :rounds], want, FORWARD)
    report.absolute(title, "forward", "later clusters", got[:, rounds:], np.zeros_like(got[:, rounds:]), 0.0)


def check_rounds(title: str, out: Arrays, case: Vectors, padding: Padding, report: Report) -> None:
    """Seeds, members, soft assignments, thresholds, φ, z and trimming of every round."""
    num_rounds = case["seeds"].shape[0]
    first = np.cumsum(padding.size) - padding.size
    local = np.where(out["seed"] >= 0, out["seed"] - first, -1)
    report.exact(title, "decisions", "seeds", local[:num_rounds], case["seeds"])
    later = local[num_rounds:]
    report.exact(title, "decisions", "no later seeds", later, np.full_like(later, -1))
    report.exact(title, "decisions", "trimmed", out["trimmed"][:num_rounds], case["trimmed"])
    members = padding.members(out["cluster_of_residue"], case["assignment"].shape)
    report.exact(title, "decisions", "assignment", members, case["assignment"].astype(bool))

    def recorded(name):
        return case[name][:num_rounds]

    soft_p = padding.padded(out["soft_p"], case["soft_p"].shape[1:])[:num_rounds]
    report.relative(title, "forward", "soft_p", soft_p, recorded("soft_p"), FORWARD)
    ran = np.isfinite(recorded("theta"))  # where the original ran the expander
    for name in ("theta", "phi"):
        report.relative(title, "forward", name, out[name][:num_rounds][ran], recorded(name)[ran], FORWARD)
    z = padding.padded(out["link_share"], case["z_frac"].shape[1:])[:num_rounds]
    real = padding.padded(np.ones(len(padding.protein), bool), z.shape[1:])
    known = ran[..., None] & np.isfinite(recorded("z_frac")) & real
    report.relative(title, "forward", "z_frac", z[known], recorded("z_frac")[known], FORWARD)
