"""Case 4 and the partitioner's part of case 7: discrete decisions, soft assignments, gradients."""

import jax.numpy as jnp
import jraph
import numpy as np
from flax import nnx

from experiments.parity.compare import FORWARD, Report
from experiments.parity.vectors import Vectors, edge_graph, parameter_gradients, temperature
from partoken_jax.config import PartitionerConfig
from partoken_jax.convert import from_state_dict, set_arrays
from partoken_jax.graphs.types import NeighbourEdges
from partoken_jax.nn.partitioner import Partition, Partitioner

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


def check_partitioner(v: Vectors, report: Report) -> None:
    """Case 4, every variant, in both forms."""
    inputs, config = v.under("in"), v.config
    batch, mask = inputs["batch"], inputs["mask"]
    padding = Padding(batch)
    # The recorded positions of residues must be the ones that packing gives.
    assert np.array_equal(inputs["dense_index"][mask], np.arange(len(batch)))
    num_graphs = mask.shape[0]
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
        for dense in (False, True):
            title = f"{variant} {'dense' if dense else 'general'}"
            report.relative(title, "forward", "tau", heat, case["tau"], FORWARD)
            senders, receivers, edge_mask, _ = edge_graph(inputs["edge_index"], len(batch), dense)
            graph = jraph.GraphsTuple(
                nodes=jnp.zeros(len(batch)),
                edges=NeighbourEdges(jnp.asarray(edge_mask)),
                senders=jnp.asarray(senders),
                receivers=jnp.asarray(receivers),
                n_node=jnp.asarray(np.bincount(batch, minlength=num_graphs)),
                n_edge=jnp.zeros(num_graphs, int),
                globals=None,
            )
            module = Partitioner(inputs["x"].shape[-1], partitioner_config, dense=dense, rngs=nnx.Rngs(0))
            set_arrays(module, from_state_dict(v.under("w").arrays, "partitioner."))
            noise = jnp.asarray(all_rounds(padding.flat(case["uniform"]), partitioner_config.max_clusters))
            node_mask = jnp.ones(len(batch), bool)

            def run(m, x, graph=graph, noise=noise, heat=heat, node_mask=node_mask) -> Partition:
                return m(x, node_mask, graph, temperature=heat, uniform=noise)

            cotangent = inputs["cotangent"][:, : case["cluster_features"].shape[1]]

            def loss(m, x, run=run, cotangent=cotangent):
                out = run(m, x)
                return jnp.sum(out.features[:, : cotangent.shape[1]] * cotangent), out

            x = jnp.asarray(inputs["x"][mask])
            gradients, (into_x,), out = parameter_gradients(module, loss, x)
            check_rounds(title, out, case, padding, num_graphs, report)
            got = config.get("lambda_card", CARDINALITY_WEIGHT) * out.cardinality
            report.relative(title, "forward", "card_loss", got, case["card_loss"], FORWARD)
            compare_features(title, out.features, case["cluster_features"], report)
            want = case.under("g")
            report.relative(title, "gradients", "g.x", into_x, want["x"][mask], 1e-4)
            expected = from_state_dict({k: a for k, a in want.arrays.items() if k != "x"}, "partitioner.")
            report.gradients(title, "gradients", gradients, expected, skip=ZERO_GRADIENTS)


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


def check_rounds(title: str, out: Partition, case: Vectors, padding: Padding, graphs: int, report: Report):
    """Seeds, members, soft assignments, thresholds, φ, z and trimming of every round."""
    rounds = out.rounds
    num_rounds = case["seeds"].shape[0]
    seeds = np.asarray(rounds.seed)[:, :graphs]
    first = np.cumsum(padding.size) - padding.size
    local = np.where(seeds >= 0, seeds - first, -1)
    report.exact(title, "decisions", "seeds", local[:num_rounds], case["seeds"])
    report.exact(
        title, "decisions", "no later seeds", local[num_rounds:], np.full_like(local[num_rounds:], -1)
    )
    report.exact(
        title, "decisions", "trimmed", np.asarray(rounds.trimmed)[:num_rounds, :graphs], case["trimmed"]
    )
    assignment = case["assignment"]
    cluster = padding.padded(np.asarray(out.cluster_of_residue) + 1, assignment.shape[:2]) - 1
    member = cluster[..., None] == np.arange(assignment.shape[2])
    report.exact(title, "decisions", "assignment", member, assignment.astype(bool))

    def recorded(name):
        return case[name][:num_rounds]

    soft_p = padding.padded(np.asarray(rounds.soft_p), case["soft_p"].shape[1:])[:num_rounds]
    report.relative(title, "forward", "soft_p", soft_p, recorded("soft_p"), FORWARD)
    ran = np.isfinite(recorded("theta"))  # where the original ran the expander
    theta = np.asarray(rounds.theta)[:num_rounds, :graphs]
    report.relative(title, "forward", "theta", theta[ran], recorded("theta")[ran], FORWARD)
    phi = np.asarray(rounds.phi)[:num_rounds, :graphs]
    report.relative(title, "forward", "phi", phi[ran], recorded("phi")[ran], FORWARD)
    z = padding.padded(np.asarray(rounds.link_share), case["z_frac"].shape[1:])[:num_rounds]
    known = (
        ran[..., None]
        & np.isfinite(recorded("z_frac"))
        & padding.padded(np.ones(len(padding.protein), bool), z.shape[1:])
    )
    report.relative(title, "forward", "z_frac", z[known], recorded("z_frac")[known], FORWARD)
