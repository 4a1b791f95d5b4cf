"""What must not change a protein's result, and what must."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.config import CodebookConfig
from partoken_jax.graphs import featurise
from partoken_jax.models import ParToken
from partoken_jax.nn.partitioner import seed_noise
from tests.helpers import (
    assert_close,
    batch,
    by_path,
    moved,
    one_layer_partoken,
    permuted_nodes,
    random_rotation,
    reordered_neighbours,
    shuffled_edges,
    without_atoms,
)

MODES = ("deterministic", "sampled")
KEY = jax.random.key(7)
NUM_NODES, PROTEINS = 96, 4
LENGTHS = (24, 30, 12, 18)


@functools.partial(jax.jit, static_argnums=0)
def run(graphdef, state, graph, uniform):
    """{mode: ParTokenOutput}, hidden vectors [N, C, 3] and the state afterwards, in one compiled program."""
    m = nnx.merge(graphdef, state)
    hidden = m.encoder.embed(graph)
    for layer in m.encoder.layers:
        hidden = hidden._replace(nodes=layer(hidden))
    outputs = {"deterministic": m(graph), "sampled": m(graph, uniform=uniform)}
    return outputs, hidden.nodes[1], nnx.state(m)


def evaluator(model: ParToken):
    """graph → the outputs and hidden vectors of `run`."""
    graphdef, state = nnx.split(model)

    def evaluate(graph, uniform=None):
        noise = seed_noise(KEY, graph, model.config.partitioner.max_clusters) if uniform is None else uniform
        outputs, vectors, _ = run(graphdef, state, graph, noise)
        return jax.device_get(outputs), np.asarray(vectors)

    return evaluate


@pytest.fixture(scope="module")
def codes(device_graph):
    """[8, 16]: near eight of the clusters, so that clusters choose different codes."""
    outputs, _ = evaluator(one_layer_partoken())(device_graph)
    clusters = outputs["deterministic"].cluster_features
    return 1.01 * clusters.reshape(-1, clusters.shape[-1])[:8]


@pytest.fixture(scope="module")
def dense(codes):
    return evaluator(one_layer_partoken(codes))


@pytest.fixture(scope="module")
def general(codes):
    return evaluator(one_layer_partoken(codes, message_passing="general"))


compiled_features = jax.jit(featurise)


def features(proteins, **options):
    return jax.device_get(compiled_features(batch(proteins, **options)))


@pytest.fixture(scope="module")
def proteins(chains):
    """Four real chains; two residues of the first lack an atom."""
    return [without_atoms(chains[0], (5, 6)), *chains[1:PROTEINS]]


@pytest.fixture(scope="module")
def graph(proteins):
    return features(proteins)


@pytest.fixture(scope="module")
def device_graph(graph):
    return jax.tree.map(jnp.asarray, graph)


@pytest.fixture(scope="module")
def plain(dense, graph):
    return dense(graph)


def first_of(sizes):
    return np.cumsum(sizes) - sizes


def same_protein(got, want, i, j, start_got, start_want, length, *, places=None, tolerance=1e-5):
    """One protein's part of two outputs, number i of `got` and j of `want`; `places[n]` is the residue of
    `want` at place n of `got`. Logits hold to 1e-5, what is no decision to `tolerance`."""
    places = np.arange(length) if places is None else places
    for mode in MODES:
        a, b = got[mode], want[mode]
        for field in ("cluster_mask", "cluster_sizes", "codes"):
            np.testing.assert_array_equal(getattr(a, field)[i], getattr(b, field)[j], f"{mode} {field}")
        cluster = b.cluster_of_residue[start_want : start_want + length]
        np.testing.assert_array_equal(a.cluster_of_residue[start_got : start_got + length], cluster[places])
        seeds = np.where(a.seeds[i] >= 0, places[a.seeds[i]], -1)
        np.testing.assert_array_equal(seeds, b.seeds[j], f"{mode} seeds")
        assert_close(a.logits[i], b.logits[j], 1e-5, f"{mode} logits")
        for field in ("cluster_features", "importances", "presence"):
            assert_close(getattr(a, field)[i], getattr(b, field)[j], tolerance, f"{mode} {field}")


def same_batch(got, want, tolerance=1e-5):
    for number, (start, length) in enumerate(zip(first_of(LENGTHS), LENGTHS, strict=True)):
        same_protein(got, want, number, number, start, start, length, tolerance=tolerance)


def test_the_cases_are_not_trivial(plain):
    """Clusters of several sizes, several codes, and sampling that decides otherwise."""
    outputs, vectors = plain
    a, b = (outputs[mode] for mode in MODES)
    assert len(np.unique(a.cluster_sizes)) > 3 and len(np.unique(a.codes)) > 2
    assert np.any(a.seeds != b.seeds) and np.any(a.cluster_of_residue != b.cluster_of_residue)
    assert np.abs(a.logits[0] - a.logits[1]).max() > 0.01
    assert np.abs(vectors[: sum(LENGTHS)]).max() > 0.1


@pytest.mark.parametrize("seed", range(4))
def test_rotation_and_translation(proteins, dense, plain, seed):
    """Logits, clusters and codes stay; hidden vectors rotate."""
    rng = np.random.default_rng(seed)
    turn = random_rotation(rng)
    turned = [moved(p, turn, rng.uniform(-20, 20, 3)) for p in proteins]
    outputs, vectors = dense(features(turned))
    # Rounded coordinates move the sine of an angle near 180° by up to 1e-4, so features get more room.
    same_batch(outputs, plain[0], tolerance=1e-4)
    real = sum(LENGTHS)
    assert_close(vectors[:real], plain[1][:real] @ turn.T, 1e-4)
    assert np.abs(vectors - plain[1])[:real].max() > 0.1


def test_mirror_images_differ(proteins, dense, plain):
    outputs, _ = dense(features([moved(p, np.diag([1.0, 1.0, -1.0])) for p in proteins]))
    difference = np.abs(outputs["deterministic"].logits - plain[0]["deterministic"].logits).max(1)
    assert np.all(difference > 1e-3)


def test_dense_and_general_models_agree(graph, general, plain):
    got, _ = general(graph)
    same_batch(got, plain[0])


def test_edges_in_any_order_take_the_general_form(graph, dense, plain):
    """The model is set to the dense form; nodes are permuted and edges shuffled, masked ones gone."""
    rng = np.random.default_rng(0)
    start, end = first_of(LENGTHS), np.cumsum(LENGTHS)
    places = [rng.permutation(n) for n in LENGTHS]
    order = np.concatenate(
        [s + p for s, p in zip(start, places, strict=True)] + [np.arange(end[-1], NUM_NODES)]
    )
    noise = np.asarray(seed_noise(KEY, graph, 3))
    # Sampling numbers belong to residues, so they move along.
    shuffled = shuffled_edges(permuted_nodes(graph, order), rng)
    got, _ = dense(shuffled, noise[:, order])
    for number, length in enumerate(LENGTHS):
        args = number, number, start[number], start[number], length
        same_protein(got, plain[0], *args, places=places[number])


def test_reordering_neighbours_of_the_dense_form(graph, dense, plain):
    got, _ = dense(reordered_neighbours(graph, np.random.default_rng(0)))
    same_batch(got, plain[0])


def test_padding_and_batch_mates(proteins, chains, dense, plain):
    """More padding residues, empty slots, other mates, another order: a protein does not notice."""
    company = [chains[4], proteins[2], chains[5], proteins[0], proteins[3], proteins[1]]
    indices = [10, 2, 11, 0, 3, 1]
    got, _ = dense(features(company, num_nodes=160, batch_size=8, indices=indices))
    start = first_of([len(p) for p in company])
    own = first_of(LENGTHS)
    for place, number in enumerate(indices):
        if number < PROTEINS:
            length = LENGTHS[number]
            same_protein(got, plain[0], place, number, start[place], own[number], length)
    for mode in MODES:
        out = got[mode]
        assert np.isfinite(out.logits).all()
        np.testing.assert_array_equal(out.cluster_mask[6:], False)
        np.testing.assert_array_equal(out.cluster_of_residue[sum(len(p) for p in company) :], -1)


def test_empty_slots_and_padding_do_not_move_the_losses(proteins, dense, plain):
    got, _ = dense(features(proteins, num_nodes=160, batch_size=8))
    for mode in MODES:
        for name, value in plain[0][mode].losses._asdict().items():
            assert_close(getattr(got[mode].losses, name), value, 1e-5, name)


def test_incomplete_residues_are_in_no_cluster(plain):
    for mode in MODES:
        out = plain[0][mode]
        np.testing.assert_array_equal(out.cluster_of_residue[[5, 6]], -1)
        assert not np.isin(out.seeds[0], (5, 6)).any()


def test_short_proteins(chains, dense):
    """1 residue, 2 residues, none complete, and a whole chain, in one batch."""
    none = without_atoms(_part(chains[2], 8), range(7))
    none.backbone[7, 3] = np.nan  # afterwards: a protein that is made without a complete residue is refused
    short = [_part(chains[0], 1), _part(chains[1], 2), none, chains[3]]
    got, vectors = dense(features(short))
    for mode in MODES:
        out = got[mode]
        for leaf in jax.tree.leaves(out):
            assert np.isfinite(leaf).all()
        np.testing.assert_array_equal(out.cluster_sizes[0], [1, 0, 0])
        assert out.cluster_sizes[1].sum() == 2
        np.testing.assert_array_equal(out.cluster_mask[2], False)
        np.testing.assert_array_equal(out.importances[2], 0)
        np.testing.assert_array_equal(out.codes[2], -1)
        np.testing.assert_allclose(out.importances.sum(1), [1, 1, 0, 1], atol=1e-6)
    assert np.isfinite(vectors).all()


def _part(protein, length):
    return type(protein)(protein.name, protein.sequence[:length], protein.backbone[:length])


def test_output_record(plain):
    """Static shapes, no float64, and fields that agree with one another."""
    b, s, n, d, k, c = PROTEINS, 3, NUM_NODES, 16, 8, 3
    shapes = {
        "logits": (b, c), "cluster_of_residue": (n,), "seeds": (b, s), "cluster_features": (b, s, d),
        "cluster_mask": (b, s), "cluster_sizes": (b, s), "codes": (b, s), "importances": (b, s),
        "squared_errors": (b, s),
        "presence": (b, k), "usage": (k,), "perplexity": (), "entropy_loss": (),
        "node_features": (n, d), "protein_features": (b, d),
    }  # fmt: skip
    kinds = {"cluster_of_residue": "int32", "seeds": "int32", "cluster_sizes": "int32", "codes": "int32"}
    start = first_of(LENGTHS)
    for mode in MODES:
        out = plain[0][mode]
        assert set(out._fields) == set(shapes) | {"losses", "shares"}
        assert out.shares is None  # one device
        for name, shape in shapes.items():
            array = getattr(out, name)
            kind = "bool" if name == "cluster_mask" else kinds.get(name, "float32")
            assert (array.shape, str(array.dtype)) == (shape, kind), name
        assert all(x.shape == () and x.dtype == np.float32 and np.isfinite(x) for x in out.losses)
        assert out.losses.vq > 0 and -1 <= out.losses.coverage < 0 and out.losses.cardinality > 0
        np.testing.assert_array_equal(out.cluster_mask, out.cluster_sizes > 0)
        np.testing.assert_array_equal(out.cluster_mask, out.codes >= 0)
        np.testing.assert_array_equal(out.cluster_mask, out.seeds >= 0)
        np.testing.assert_array_equal(out.cluster_mask, out.importances > 0)
        np.testing.assert_allclose(out.importances.sum(1), 1, atol=1e-6)
        assert np.all((out.presence >= 0) & (out.presence <= 1))
        for i, cluster in np.argwhere(out.cluster_mask):
            members = np.flatnonzero(out.cluster_of_residue == cluster) - start[i]
            members = members[(members >= 0) & (members < LENGTHS[i])]
            assert len(members) == out.cluster_sizes[i, cluster] <= 6
            assert out.seeds[i, cluster] in members


def test_inference_is_deterministic_and_changes_nothing(device_graph, codes):
    """REFERENCE faults 2 and 3."""
    graphdef, state = nnx.split(one_layer_partoken(codes))
    noise = seed_noise(KEY, device_graph, 3)
    first, _, after = run(graphdef, state, device_graph, noise)
    second, _, _ = run(graphdef, state, device_graph, noise)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    same_state(after, state)


def test_a_key_means_dropout_and_noise_and_the_codebook_moves(device_graph, plain, codes):
    graphdef, state = nnx.split(one_layer_partoken(codes))

    @jax.jit
    def train(state, key):
        m = nnx.merge(graphdef, state)
        return m(device_graph, key=key, update_codebook=True), m.codebook.state

    (trained, moved_codebook), (other, _) = (train(state, jax.random.key(k)) for k in (0, 1))
    assert np.abs(trained.logits - plain[0]["deterministic"].logits).max() > 1e-3
    assert np.abs(trained.logits - other.logits).max() > 1e-3
    assert np.any(trained.seeds != other.seeds)
    before = nnx.merge(graphdef, state).codebook.state
    assert all(np.any(a != b) for a, b in zip(before, moved_codebook, strict=True))


def test_without_the_codebook_clusters_and_logits_stay(device_graph, plain, codes):
    """Stage 0: no tokens, and nothing moves the codebook."""
    graphdef, state = nnx.split(one_layer_partoken(codes))

    @jax.jit
    def bypass(state):
        m = nnx.merge(graphdef, state)
        return m(device_graph, bypass_codebook=True, update_codebook=True), nnx.state(m)

    (bypassed, after), want = bypass(state), plain[0]["deterministic"]
    np.testing.assert_allclose(bypassed.logits, want.logits, atol=1e-5)
    np.testing.assert_array_equal(bypassed.cluster_of_residue, want.cluster_of_residue)
    np.testing.assert_array_equal(bypassed.codes, -1)
    assert bypassed.losses.vq == bypassed.losses.coverage == 0 < bypassed.losses.cardinality
    same_state(after, state)


def same_state(got, want):
    got, want = by_path(got), by_path(want)
    assert got.keys() == want.keys()
    for path, array in want.items():
        np.testing.assert_array_equal(got[path], array, path)


def test_codebook_in_the_path(device_graph, plain):
    """With `classify_quantised` the classifier sees codes, and gradients pass straight through."""
    quantised = one_layer_partoken(codebook=CodebookConfig(size=8, classify_quantised=True))
    graphdef, params, rest = nnx.split(quantised, nnx.Param, ...)

    def total(params, codes):
        m = nnx.merge(graphdef, params, rest, copy=True)
        m.codebook.embeddings[...] = codes
        out = m(device_graph)
        return jnp.sum(jnp.sin(out.logits)), out.logits

    gradient = jax.jit(jax.grad(total, has_aux=True))
    codes = quantised.codebook.embeddings[...]
    (into, logits), (_, shifted) = gradient(params, codes), gradient(params, codes + 0.5)
    assert np.abs(logits - plain[0]["deterministic"].logits).max() > 1e-4
    assert np.abs(logits - shifted).max() > 1e-4
    assert np.abs(by_path(into)["partitioner.threshold.layers.0.kernel"]).max() > 0
