"""The PyTorch peer: recorded numbers, both bookkeepings, host reads, and equality with our models."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")
# ruff: noqa: E402

from experiments.parity.__main__ import run
from experiments.parity.compare import Report
from experiments.parity.partitioner import ZERO_GRADIENTS
from experiments.torch_peer.features import featurise as peer_featurise
from experiments.torch_peer.graphs import ProteinGraph, from_featurised, from_packed, radius_edges
from experiments.torch_peer.host_reads import HostReads
from experiments.torch_peer.models import build_model as build_peer
from experiments.torch_peer.training import make_optimiser, train_step
from experiments.torch_peer.training import total_loss as peer_loss
from experiments.torch_peer.weights import load_original, load_ours
from partoken_jax import build_model, featurise
from partoken_jax.config import PartitionerConfig
from partoken_jax.convert import from_state_dict
from partoken_jax.graphs.types import NeighbourEdges
from partoken_jax.training.objective import LossWeights, total_loss
from tests.helpers import assert_close, batch, by_path, crop, scaled_parameters, tiny, without_atoms

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted(GOLDEN.glob("case*.npz"))
WEIGHTS = LossWeights(1.0, 1e-2, 5e-3)
ROUNDS = 4
# Small clusters and a warm start: rounds that trim, rounds without candidates, two hops.
PARTITIONER = PartitionerConfig(hidden=10, max_clusters=ROUNDS, cluster_size_max=4, k_hop=2)


@pytest.fixture(scope="module")
def packed(chains):
    """Four chains, one of a single residue, and one with residues that lack an atom."""
    return batch([chains[0], without_atoms(chains[1], [0, 4, 5]), crop(chains[3], 0, 1), chains[2]])


@pytest.fixture(scope="module")
def featurised(packed):
    return jax.jit(featurise)(packed)


@pytest.fixture(scope="module")
def uniform(packed):
    return np.random.default_rng(1).random((ROUNDS, len(packed.nodes.mask)), np.float32)


def pair(kind: str, bookkeeping: str = "vectorised", **changes):
    """Our model and the peer with the same weights, large enough that decisions spread."""
    config = tiny(kind=kind, num_layers=1, dropout=0.0, partitioner=PARTITIONER, **changes)
    model = build_model(config, rngs=nnx.Rngs(6))
    scaled_parameters(model, 1.5)
    peer = build_peer(config, bookkeeping)
    load_ours(peer, by_path(nnx.state(model)))
    return model, peer.eval()


def our_results(model, graph, options):
    """The record of our model on a featurised batch, its losses, and gradients of the whole loss by path."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def gradient(params, graph):
        def objective(params):
            out = nnx.merge(graphdef, params, rest, copy=True)(graph, **options)
            auxiliary = getattr(out, "losses", None)
            globals = graph.globals
            losses = total_loss(out.logits, globals.label[:-1], globals.mask[:-1], auxiliary, WEIGHTS)
            return losses.total, (out, losses)

        return jax.grad(objective, has_aux=True)(params)

    gradients, (out, losses) = gradient(params, graph)
    return out, losses, by_path(gradients)


def peer_results(peer, graph: ProteinGraph, options, call=None):
    """The same of the peer; `call` is what runs it, by default itself."""
    out = (peer if call is None else call)(graph, **options)
    losses = peer_loss(out, graph.label, WEIGHTS)
    losses.total.backward()
    gradients = {
        name: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for name, p in peer.named_parameters()
    }
    return out, losses, from_state_dict(gradients)


def assert_same_gradients(got, want, tolerance):
    """Every gradient within `tolerance` of its largest entry; those that are 0 must be 0."""
    assert got.keys() == want.keys()
    for name in want:
        if name in ZERO_GRADIENTS:
            continue
        if np.abs(want[name]).max() > 0:
            assert_close(got[name], want[name], tolerance, name)
        else:
            assert np.abs(got[name]).max() == 0, name


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_recorded_numbers_hold(file, tmp_path):
    shutil.copy(file, tmp_path)
    report = Report()
    assert run(tmp_path, report, "torch")
    assert report.holds, f"\n{report.table()}"


def test_state_dict_has_the_originals_keys():
    def original(file, prefix):
        with np.load(GOLDEN / file) as arrays:
            keys = {k.removeprefix(prefix) for k in arrays.files if k.startswith(prefix)}
        return {k for k in keys if "dummy_param" not in k and not k.startswith("cluster_attention.")}

    assert set(build_peer(tiny()).state_dict()) == original("case7_partoken.npz", "w.")
    baseline = build_peer(tiny(kind="gvp", pooling="attention", residue_types=True))
    assert set(baseline.state_dict()) == original("case3_baseline.npz", "w.seq1.")


def test_weights_that_do_not_fit_are_named():
    peer = build_peer(tiny(kind="gvp"))
    arrays = {key: value.numpy() for key, value in peer.state_dict().items()}
    load_original(peer, {**arrays, "W_v.1.dummy_param": np.zeros(0)})
    del arrays["W_v.1.ws.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*W_v\.1\.ws\.bias"):
        load_original(peer, arrays)


def test_same_features_as_ours(packed, featurised):
    got, want = peer_featurise(from_packed(packed)), from_featurised(featurised)
    assert not got.mask.all()
    for name in ("residue_type", "mask", "edge_index", "batch", "label"):
        assert torch.equal(getattr(got, name), getattr(want, name)), name
    # The tolerances of the recorded vectors.
    np.testing.assert_allclose(got.node_s, want.node_s, rtol=0, atol=1e-4)
    for name in ("node_v", "edge_s", "edge_v"):
        assert_close(getattr(got, name), getattr(want, name), what=name)


@pytest.mark.parametrize("kind", ["gvp", "partoken"])
def test_same_as_our_model_on_real_proteins(kind, featurised, uniform):
    model, peer = pair(kind)
    graph = from_featurised(featurised)
    given, options = {}, {}
    if kind == "partoken":
        given = {"uniform": jnp.asarray(uniform), "temperature": 0.7, "update_codebook": True}
        options = given | {"uniform": torch.as_tensor(uniform[:, : len(graph.batch)])}
    want, want_losses, want_gradients = our_results(model, featurised, given)
    got, losses, gradients = peer_results(peer, graph, options)
    assert_close(got.logits.detach(), want.logits)
    for name, value in losses._asdict().items():
        np.testing.assert_allclose(
            value.detach(), getattr(want_losses, name), rtol=1e-5, atol=1e-7, err_msg=name
        )
    if kind == "partoken":
        clusters = np.asarray(want.cluster_of_residue)[: len(graph.batch)]
        assert len(np.unique(clusters)) > 2
        np.testing.assert_array_equal(got.cluster_of_residue, clusters)
        for name in ("seeds", "cluster_mask", "codes"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
        for name in ("cluster_features", "importances", "presence", "usage"):
            assert_close(getattr(got, name).detach(), getattr(want, name), what=name)
    assert_same_gradients(gradients, want_gradients, 1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_loops_and_vectorised_give_the_same(featurised, uniform, temperature):
    graph = from_featurised(featurised)
    noise = torch.as_tensor(uniform[:, : len(graph.batch)])
    results = {}
    for bookkeeping in ("vectorised", "loops"):
        _, peer = pair("partoken", bookkeeping)
        options = {"uniform": noise, "temperature": temperature, "update_codebook": True}
        rounds = partition_rounds(peer, graph, temperature, noise)
        results[bookkeeping] = (*peer_results(peer, graph, options), rounds)
    (want, want_losses, want_gradients, want_rounds), (got, losses, gradients, rounds) = results.values()
    assert want_rounds.trimmed.any() and not want_rounds.trimmed.all()
    for name in ("cluster_of_residue", "seeds", "cluster_mask", "codes"):
        assert torch.equal(getattr(got, name), getattr(want, name)), name
    assert torch.equal(rounds.trimmed, want_rounds.trimmed)
    for name in ("soft_p", "link_share"):
        assert_close(getattr(rounds, name), getattr(want_rounds, name), 1e-6, name)
    assert_close(got.logits.detach(), want.logits.detach(), 1e-6)
    assert_close(torch.stack(losses).detach(), torch.stack(want_losses).detach(), 1e-6)
    assert_same_gradients(gradients, want_gradients, 1e-5)


@torch.no_grad()
def partition_rounds(peer, graph, temperature, noise):
    partition = peer.partitioner(
        peer.encode(graph),
        graph.mask,
        graph.edge_index,
        graph.batch,
        len(graph.label),
        temperature=temperature,
        uniform=noise,
    )
    return partition.rounds


def test_vectorised_never_reads_and_loops_read_for_every_residue(packed):
    proteins = from_packed(packed)
    reads, assigned = {}, {}
    for bookkeeping in ("vectorised", "loops"):
        _, peer = pair("partoken", bookkeeping)
        optimiser = make_optimiser(peer.train(), 1e-3)
        train_step(peer, optimiser, proteins, WEIGHTS, update_codebook=True)  # makes the moments
        with HostReads() as counted:
            train_step(peer, optimiser, proteins, WEIGHTS, update_codebook=True)
        reads[bookkeeping] = counted.count
        with torch.no_grad():
            clusters = peer(peer_featurise(proteins)).cluster_of_residue
        assigned[bookkeeping] = int((clusters >= 0).sum())
    assert reads["vectorised"] == 0
    assert reads["loops"] > 3 * assigned["loops"] > 0


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_host_reads_are_seen(mode):
    x = torch.tensor([1.0, 0.0, 2.0])
    for read in (
        lambda: x[0].item(),
        lambda: bool(x[0] > 0),
        lambda: int(x[0]),
        lambda: x.nonzero(),
        lambda: x[x > 0],
        lambda: torch.repeat_interleave(x, torch.tensor([1, 2, 3])),
    ):
        with mode(), HostReads() as counted:
            read()
        assert counted.count == 1
    with mode(), HostReads() as counted:
        torch.where(x > 0, x, 0.0)[torch.tensor([0, 2])].sum()
    assert counted.count == 0


def test_training_draws_noise_and_evaluation_does_not(featurised):
    graph = from_featurised(featurised)
    _, peer = pair("partoken")
    with torch.no_grad():
        assert torch.equal(peer(graph).logits, peer(graph).logits)
        peer.train()
        first, second = peer(graph), peer(graph)
    assert not torch.equal(first.seeds, second.seeds)


def test_a_radius_graph_gives_what_our_general_form_gives(packed):
    proteins = from_packed(packed)
    ends = []
    for protein in range(len(proteins.label)):
        rows = (proteins.batch == protein).nonzero()[:, 0]
        ca = proteins.backbone[rows, 1]
        edges = radius_edges(ca, proteins.mask[rows], 9.0)
        distance = (ca[edges[0]] - ca[edges[1]]).norm(dim=-1)
        assert (distance < 9.0).all() and (edges[0] != edges[1]).all()
        ends.append(edges + rows[0])
    edge_index = torch.cat(ends, dim=1)
    degree = torch.bincount(edge_index[1])
    assert len(degree.unique()) > 3  # not a kNN graph
    order = torch.as_tensor(np.random.default_rng(0).permutation(edge_index.shape[1]))
    graph_of_edge = proteins.batch[edge_index[1]]
    graph = packed._replace(
        edges=NeighbourEdges(np.ones(edge_index.shape[1], bool)),
        senders=edge_index[0].numpy().astype(np.int32),
        receivers=edge_index[1].numpy().astype(np.int32),
        n_edge=np.bincount(graph_of_edge, minlength=len(packed.n_node)).astype(np.int32),
    )
    ours = jax.jit(featurise)(graph)
    peers = from_featurised(ours)
    peers = peers._replace(
        edge_index=peers.edge_index[:, order], edge_s=peers.edge_s[order], edge_v=peers.edge_v[order]
    )
    model, peer = pair("partoken", message_passing="general")
    want, _, want_gradients = our_results(model, ours, {})
    got, _, gradients = peer_results(peer, peers, {})
    assert_close(got.logits.detach(), want.logits)
    clusters = np.asarray(want.cluster_of_residue)[: len(proteins.batch)]
    np.testing.assert_array_equal(got.cluster_of_residue, clusters)
    assert_same_gradients(gradients, want_gradients, 1e-4)


@pytest.mark.parametrize("kind", ["gvp", "partoken"])
def test_compiles_as_one_graph(kind, featurised, uniform):
    """Forward and backward, without a break, and with the numbers of eager execution."""
    graph = from_featurised(featurised)
    options = {}
    if kind == "partoken":
        noise = torch.as_tensor(uniform[:, : len(graph.batch)])
        options = {"uniform": noise, "temperature": torch.tensor(0.7), "update_codebook": True}
    _, eager = pair(kind)
    want, _, want_gradients = peer_results(eager, graph, options)
    _, peer = pair(kind)
    compiled = torch.compile(peer, backend="aot_eager", fullgraph=True)
    got, _, gradients = peer_results(peer, graph, options, compiled)
    assert_close(got.logits.detach(), want.logits.detach(), 1e-6)
    assert_same_gradients(gradients, want_gradients, 1e-5)
    buffers = dict(eager.named_buffers())
    for name, buffer in peer.named_buffers():
        assert torch.allclose(buffer, buffers[name]), name
