"""What files lack: listed and left out, or an error of that file alone; and which kinds must be compared."""

import json
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.parity import __main__ as command
from experiments.parity import jax_side
from experiments.parity.framework import Result
from experiments.parity.partitioner import Padding
from experiments.parity.vectors import Vectors
from partoken_jax.convert import from_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
CASE6, CASE7 = "case6_attention_fusion.npz", "case7_partoken.npz"
GRADIENTS = r"(.+\.)?g(_step0)?\..+"


def golden(number: int) -> dict[str, np.ndarray]:
    [file] = GOLDEN.glob(f"case{number}_*.npz")
    with np.load(file) as vectors:
        return dict(vectors)


def without(arrays: dict, *patterns: str) -> dict:
    """The arrays whose whole name fits none of the patterns."""
    kept = {k: a for k, a in arrays.items() if not any(re.fullmatch(pattern, k) for pattern in patterns)}
    assert len(kept) < len(arrays)
    return kept


@pytest.fixture
def parity(tmp_path, monkeypatch, capsys):
    """Runs the command on files, given as name=arrays; the exit code, its JSON and what it printed."""

    def run(*flags, **files):
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        for name, content in files.items():
            if isinstance(content, bytes):
                (folder / f"{name}.npz").write_bytes(content)
            else:
                np.savez(folder / f"{name}.npz", **content)
        out = tmp_path / "parity.json"
        argv = ["parity", "--vectors", str(folder), "--json", str(out), *flags]
        monkeypatch.setattr("sys.argv", argv)
        code = command.main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return SimpleNamespace(code=code, out=printed.out, **json.loads(out.read_text()))

    return run


@pytest.fixture
def replayed(monkeypatch):
    """Instead of a framework, one that answers with what the golden case 7 holds: the check of cut-down files
    needs no model. What it ran is noted."""
    v, ran = Vectors(golden(7)), []
    padding, config = Padding(v["in.batch"]), v.config

    def partition(part: Vectors) -> dict:
        first = np.cumsum(padding.size) - padding.size
        assigned = part["assignment"]
        cluster = np.where(assigned.any(-1), assigned.argmax(-1), -1)
        return {
            "seed": np.where(part["seeds"] >= 0, part["seeds"] + first, -1),
            "trimmed": part["trimmed"],
            "theta": part["theta"],
            "phi": part["phi"],
            "soft_p": padding.flat(part["soft_p"]),
            "link_share": padding.flat(part["z_frac"]),
            "cluster_of_residue": padding.flat(cluster),
        }

    def encoder(form, *_):
        ran.append("encoder")
        e = v.under("eval")
        stages = ["encoder", *(f"layer{i}" for i in range(config["num_layers"]))]
        return [(e[f"h_after_{s}_s"], e[f"h_after_{s}_v"]) for s in stages], e["node_features"]

    def evaluate(form, *_, **__):
        ran.append("evaluate")
        e = v.under("eval")
        names = ("logits", "bypass_logits", "perplexity", "importance", "presence", "cluster_features")
        plain = {name: e[name] for name in names}
        return {**plain, **partition(e), "vq": e["vq_loss"], "codes": e["code_indices"]}

    def train(form, *_, published, cotangents, **__):
        t = v.under("train")
        ran.append("gradients" if cotangents else "training")
        of = {} if not cotangents else "train.g.total" if published and "coverage" in cotangents else (
            "train.g.step" if published else "trainfix.g.total"
        )  # fmt: skip
        card = config["lambda_card"]
        cluster = np.where(t["assignment"].any(-1), t["assignment"].argmax(-1), -1)
        outputs = {
            "cluster_of_residue": padding.flat(cluster),
            **{name: t[f"{name}_after"] for name in ("embeddings", "ema_counts", "ema_sums")},
            **{name: t[name] for name in ("presence", "logits", "importance")},
            "ce": t["metric.loss_cls"],
            "vq": t["vq_loss"],
            "coverage": t["metric.loss_psc"],
            "cardinality": t["metric.loss_cardinality"] / card,
            "perplexity": t["metric.metric_perplexity"],
            "entropy_loss": t["metric.metric_entropy"],
        }
        return Result(outputs, from_state_dict(v.under(of).arrays) if of else {}, {})

    side = SimpleNamespace(
        MODEL_FORMS=("general", "dense"),
        full_precision=jax_side.full_precision,
        environment=dict,
        encoder=encoder,
        evaluate=evaluate,
        train=train,
    )
    monkeypatch.setattr(command, "framework", lambda name: side)
    return ran


def test_the_replayed_golden_file_holds_and_lacks_nothing(parity, replayed):
    result = parity(case7_partoken=golden(7))
    assert (result.code, result.missing, result.problems) == (0, {}, [])


@pytest.mark.parametrize("name", ["case7", "case7b", "case7_full", "case7_partoken_full", "case7-2"])
def test_names_of_one_case(parity, replayed, name):
    assert parity(**{name: golden(7)}).code == 0


def test_values_per_layer_may_be_missing(parity, replayed):
    result = parity(case7_partoken=without(golden(7), r"eval\.(h_after_.*|node_features)"))
    names = [f"eval.h_after_{s}_{x}" for s in ("encoder", "layer0", "layer1") for x in "sv"]
    assert result.code == 0
    assert result.missing == {"case7_partoken": [*names, "eval.node_features"]}
    assert "encoder" not in replayed
    assert "case7_partoken lacks these arrays" in result.out and "  eval.h_after_layer1_v\n" in result.out


def test_a_file_without_gradients_needs_another_one_of_its_case(parity, replayed):
    forward = without(golden(7), GRADIENTS, r"train\.loss_as_training_step")
    result = parity(case7_full=forward)
    assert result.code == 1 and all(row["holds"] for row in result.rows)
    assert result.problems == ["case 7: no gradients were compared, because case7_full.npz holds none"]
    assert {"trainfix.g.total.*", "train.g.total.*", "train.g.step.*"} < set(result.missing["case7_full"])
    assert "gradients" not in replayed and "training" in replayed


def test_a_file_without_gradients_beside_one_that_has_them(parity, replayed):
    forward = without(golden(7), GRADIENTS)
    result = parity(case7_full=forward, case7_partoken=golden(7))
    assert (result.code, result.problems, list(result.missing)) == (0, [], ["case7_full"])


@pytest.mark.parametrize(
    ("kind", "patterns"),
    [
        (
            "discrete decisions",
            (r".*\.(seeds|trimmed|assignment|code_indices)",),
        ),
        ("buffers", (r"train\.(embeddings|ema_counts|ema_sums)_after",)),
        ("presence", (r".*\.presence", r".*_presence_mean")),
        ("gradients", (GRADIENTS,)),
    ],
)
def test_every_kind_is_needed_once(parity, replayed, kind, patterns):
    result = parity(case7_one=without(golden(7), *patterns), case7_two=without(golden(7), *patterns))
    assert result.code == 1
    assert result.problems == [
        f"case 7: no {kind} were compared, because case7_one.npz, case7_two.npz hold none"
    ]


def test_gradients_alone_are_compared_too(parity, replayed):
    arrays = golden(7)
    result = parity(case7_gradients=without(arrays, r"train\..*"), case7_partoken=arrays)
    assert (result.code, result.problems) == (0, [])
    compared = [row for row in result.rows if row["case"] == "case7_gradients dense train"]
    assert [row["group"] for row in compared] == ["gradients"]


def test_one_gradient_may_be_missing(parity, replayed):
    name = "trainfix.g.total.classifier.0.weight"
    result = parity(case7_partoken=without(golden(7), re.escape(name)))
    assert (result.code, result.missing) == (0, {"case7_partoken": [name]})


@pytest.mark.parametrize("names", [("theta",), ("theta", "phi")])
def test_rounds_without_theta_are_known_from_phi_or_z(parity, replayed, names):
    arrays = without(golden(7), *(rf"eval\.{name}" for name in names))
    result = parity(case7_partoken=arrays)
    assert (result.code, result.missing) == (0, {"case7_partoken": [f"eval.{name}" for name in names]})
    # What is there of them is compared all the same.
    arrays["eval.z_frac"] = arrays["eval.z_frac"] * np.float32(1.001)
    assert [row["worst"] for row in parity(case7_partoken=arrays).rows if not row["holds"]] == ["z_frac"] * 2


@pytest.mark.parametrize(
    "name",
    ["in.node_s", "eval.uniform", "w.partitioner.expander.Wq.weight", "w.codebook.embeddings", "config"],
)
def test_what_a_case_cannot_run_without_is_an_error_of_that_file_alone(parity, replayed, name):
    result = parity(case7_a=without(golden(7), re.escape(name)), case7_b=golden(7))
    assert result.code == 1
    assert f"case7_a.npz: it lacks the array {name}, and cannot be checked without it" in result.problems
    assert {row["case"].split()[0] for row in result.rows} >= {"case7_b"}
    assert "KeyError" not in result.out


@pytest.mark.parametrize(
    "name", ["k_hop", "max_clusters", "attention_heads", "lambda_card", "tau_min", "epoch"]
)
def test_a_hyper_parameter_is_missing(parity, replayed, name):
    arrays = golden(7)
    config = json.loads(str(arrays["config"]))
    del config[name]
    result = parity(case7_partoken={**arrays, "config": np.array(json.dumps(config))})
    assert result.code == 1
    assert result.problems[0] == (
        f"case7_partoken.npz: its config lacks the hyper-parameter {name}; record the file again with it"
    )


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_file_that_cannot_be_read(parity, content):
    result = parity(case3_broken=content, case6_attention_fusion=golden(6))
    assert result.code == 1
    assert result.problems[0].startswith("case3_broken.npz: it cannot be read as an .npz file")
    assert all(row["holds"] for row in result.rows) and result.rows


def test_a_config_that_is_not_json(parity, replayed):
    result = parity(case7_partoken={**golden(7), "config": np.array("{k_hop: 1")})
    assert result.code == 1 and "its config is not a JSON object" in result.problems[0]


def test_arrays_that_do_not_fit_together_are_a_sentence(parity):
    arrays = golden(6)
    result = parity(case6_attention_fusion={**arrays, "C": arrays["C"][:, :, :3]})
    assert result.code == 1
    assert result.problems[0].startswith("case6_attention_fusion.npz: its arrays do not fit case 6 (")
    assert "\n" not in result.problems[0]


def test_attention_without_the_arrays_of_one_variant(parity):
    patterns = (r"attn\.orig\..*", r"attn\.fixed\.attn", r"attn\.fixed\.g\.g", r"fusion\.beta")
    result = parity(case6_attention_fusion=without(golden(6), *patterns))
    assert (result.code, result.problems) == (0, [])
    assert result.missing == {
        "case6_attention_fusion": ["attn.orig.*", "attn.fixed.attn", "attn.fixed.g.g", "fusion.beta"]
    }


def test_gradients_without_their_cotangent_are_left_out(parity):
    result = parity(case6_attention_fusion=without(golden(6), "cot"))
    assert result.missing["case6_attention_fusion"] == ["cot"]
    assert result.problems == [
        "case 6: no gradients were compared, because case6_attention_fusion.npz holds none"
    ]


def test_a_file_of_which_nothing_was_compared(parity):
    arrays = without(golden(6), r"attn\.(orig|fixed|temp0\.5)\..*", r"fusion\..*")
    result = parity(case6_attention_fusion={**arrays, "config": np.array('{"attention_heads": 4}')})
    assert result.code == 1 and not result.rows
    assert result.problems == ["case6_attention_fusion.npz: nothing in it was compared"]


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [(r".*k\d+\.(edge_index|mask|seq)", "edges"), (r".*k\d+\.(.*_[sv]|x_ca)", "features")],
)
def test_features_and_edges_are_each_needed(parity, pattern, kind):
    arrays = without(golden(2), r"p[01]\.k.*", r"p2\.k30\..*", pattern)
    result = parity(case2_featurizer=arrays)
    assert result.code == 1
    assert result.problems == [f"case 2: no {kind} were compared, because case2_featurizer.npz holds none"]


def test_a_directory_without_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["parity", "--vectors", str(tmp_path / "none")])
    assert command.main() == 2
    assert "no case*.npz there; give the directory of vectors" in capsys.readouterr().err


def test_a_file_for_the_table_in_a_folder_that_does_not_exist(tmp_path, monkeypatch, capsys):
    argv = ["parity", "--vectors", str(GOLDEN), "--json", str(tmp_path / "none" / "parity.json")]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "there is no directory" in capsys.readouterr().err


def test_the_help_says_when_the_run_is_green(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["parity", "--help"])
    with pytest.raises(SystemExit, match="0"):
        command.main()
    printed = capsys.readouterr().out
    assert "something of each kind was compared" in printed
    assert "gradients is in order beside another one that has them, but not alone" in " ".join(
        printed.split()
    )
