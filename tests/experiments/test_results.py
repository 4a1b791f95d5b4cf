"""A command in a committed result is the command that makes exactly that file."""

import json
import shlex
from pathlib import Path

import pytest

from experiments import compiled, finished_runs, gpu_forms, timing_analysis, unseen_families
from experiments.learn import SCREENED
from partoken_jax.pretrained.load import BOX

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
FILES = sorted(
    path.relative_to(RESULTS)
    for path in RESULTS.rglob("*.json")
    if not path.with_name("config.yaml").is_file()  # of a run, which holds its settings
)


def recorded(file: Path) -> str:
    result = json.loads((RESULTS / file).read_text())
    return result.get("command") or result.get("commands", [None])[-1] or result["environment"]["command"]


def flags(command: str) -> dict[str, str]:
    """Flags of a command by name; "" for one without a value."""
    found: dict[str, str] = {}
    name = ""
    for word in shlex.split(command):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found[name] = value
        elif name and not found[name]:
            found[name] = word
    return found


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_flags_of_a_command_are_what_its_file_holds(file):
    result, given = json.loads((RESULTS / file).read_text()), flags(recorded(file))
    if "json" in given:
        assert given["json"] == f"experiments/results/{file}"
    if file.parts[0] == "timing":
        synthetic = f"synthetic, {given['residues']} residues" if "residues" in given else None
        assert timing(result) == {
            "passes": set(given["passes"].split(",")),
            "sweeps": set(filter(None, given.get("sweeps", "").split(","))),
            "batch-size": int(given["batch-size"]),
            "residues": int(given["residues"]) if "residues" in given else None,
            "source": synthetic or given.get("data", "embedded"),
            "repeats": int(given.get("repeats", 10)),
            "gap": "no-gap" not in given,
        }
    elif file.parts[0] == "models":
        assert given["name"] == file.stem and result["schema"] == "partoken.model_card/1"
        assert result["bytes"] == (BOX / f"{file.stem}.safetensors").stat().st_size
    elif file.parts[0] == "gpu":
        assert "(gpu)" in result["environment"]["device"] and not result["quick"]
        assert {row["batch_size"] for row in result["measurements"]} == {int(file.stem.split("batch")[1])}
    elif file.parts[0] in ("comparison", "comparison_after"):
        sizes = {row["batch_size"] for row in result["measurements"]}
        runs = {
            row["runs"] for row in result["measurements"] if row["median_ms"] and row["variant"] != "jax_fast"
        }
        assert sizes == set(map(int, given["batch-size"].split(",")))
        assert {row["residues"] for row in result["measurements"]} == {int(given["residues"])}
        assert runs == {int(given["repeats"])}
        assert any(row["variant"] == "original" for row in result["measurements"]) == ("original" in given)
    elif file.parts == ("compiled", "summary.json"):
        others = (file.name, "fused_layer.json", "gpu_forms.json", "tpu_dense.json")
        files = [path for path in (RESULTS / "compiled").glob("*.json") if path.name not in others]
        names = {compiled.file_name(row): row for row in result["rows"]}
        assert names == {path.stem: json.loads(path.read_text()) for path in files}
    elif file.name == "tpu_dense.json":
        assert result["rows"] and not any(row["run"] or row["form"] != "dense" for row in result["rows"])
    elif file.name == "gpu_forms.json":
        assert [row["form"] for row in result["rows"]] == list(gpu_forms.FORMS) and not result["run"]
        assert all(row["bytes"] >= result["rows"][0]["bytes"] for row in result["rows"])
    elif file.name == "fused_layer.json":
        assert not given and not result["run"] and max(result["errors"]["float32"].values()) < 1e-6
        assert max(result["gpu_errors"]["float32"].values()) < 1e-6
        rows = result["rows"].values()
        assert all(row["bytes"] >= row["other_bytes"] > 0 for row in rows)
    elif file.parts[0] == "compiled":
        assert given == {key: result[key] for key in compiled.KEYS}
        assert file.stem == compiled.file_name(result) and not result["run"] and not result["host_calls"]
    elif file.name == "before_after.json":
        assert {row["after_over_before"]["pairs"] for row in result["rows"]} == {int(given["repeats"])}
        assert {row["residues"] for row in result["rows"]} == {int(given["residues"])}
    elif file.parts[0] == "tune":
        asked = {"proteins": int(given.get("batch-size", 16)), "residues": int(given.get("residues", 300))}
        assert asked.items() <= result["batch"].items()
        chosen = next(row for row in result["rows"] if row["label"] == result["chosen"])
        assert chosen["status"] == "ok" and chosen["median_ms"] > 0
    elif file.name == "page_faults.json":
        assert {row["over_none"]["pairs"] for row in result["rows"]} == {int(given.get("repeats", 10))}
        assert result["batch_size"] == int(given.get("batch-size", 16))
    elif file.name.startswith("parity"):
        assert result["holds"] and not result["problems"] and not result["missing"]
        assert ("torch" in result["environment"]) == (given.get("framework") == "torch")
    elif file.name == "scaling.json":
        assert result["devices"] == int(given.get("devices", 8))
        assert [row["all_reduces"] for row in result["rows"]] == [1, 2, 2]
    elif file.name == "faults.json":
        assert result["kills"] == int(given["kills"]) == sum(len(run["kills"]) for run in result["runs"])
        assert not any(run["differences"] for run in result["runs"])
    elif file.name == "annotate_speed.json":
        assert [row["proteins"] for row in result["memory"]] == [500, 2_000, 10_000]
        assert result["growth"] < 1.1 and result["speed"]["proteins"] == 769
    elif file.name == "corpus.json":
        assert result["files"] == len(result["rows"]) == result["read"] + result["refused"]
        assert result["residues"] > 0 == result["crashes"]
        assert not any(row.get("not_found") or row.get("left_out") for row in result["rows"])
    elif file.name == "fuzz_structures.json":
        assert result["files"] == int(given["files"]) == sum(result["outcomes"].values()) >= 20_000
        assert result["files"] == result["outcomes"]["read"] + result["outcomes"]["refused"]
        assert result["slowest_seconds"] < 10
    elif file.name == "saving_cost.json":
        assert {len(seconds) for seconds in result["seconds_per_step"].values()} == {int(given["rounds"])}
    elif file.name == "cluster_start.json":
        assert len(result["untrained"]) == int(given.get("seeds", 10))
        assert result["coverage_over_seeds"]["data"]["furthest"] < 0.2
    elif file.name == "codebooks.json":
        assert {len(rows) for rows in result["variants"].values()} == {result["seeds"]}
        assert result["seeds"] == int(given.get("seeds", 3))
    elif file.name == "lagging_codes.json":
        for model in result["models"].values():
            left = {kind: of["perplexity_share"] for kind, of in model["use"].items()}
            assert left["of the model"] < left["k-means of the same clusters"]
    elif file.name == "baselines.json":
        assert result["trees"] == int(given.get("trees", 200))
        seeds = int(given.get("seeds", 3))
        assert all(row["seeds"] == len(row["per_seed"]) == seeds for row in result["rows"])
        assert ("data" in given) == any(row["n"] > 700 for row in result["rows"])
    elif file.name == "unseen_families.json":
        assert tuple(result["tasks"]) == unseen_families.TASKS
    elif file.name in ("sites.json", "sites_ec.json"):
        assert result["model"] == given.get("model", "cath-architecture")
        assert result["draws"] == int(given.get("draws", 1000)) and given["data"].endswith("pdb_chains.npz")
        assert result["all"]["proteins"] > result["held_out"]["proteins"] > 40
        assert result["matched"] + len(result["unmatched"]) == result["asked"]
    elif file.name == "stability.json":
        assert result["noise"]["proteins"] == int(given.get("chains", 60))
        assert result["noise"]["draws"] == int(given.get("draws", 3))
        assert (result["seeds"] is None) == ("models" not in given)
    elif file.name == "conv_forms.json":
        assert {row["ratio"]["pairs"] for row in result["rows"]} == {int(given["repeats"])}
    elif file.name == "dead_channels.json":
        assert {row["seed"] for row in result["rows"]} == set(range(int(given.get("seeds", 3))))
    elif file.name == "same_features.json":
        for asked in map(flags, result["commands"]):
            found = result["analysis"][f"{asked.get('encoder', 'backbone')}, {asked['task']}"]
            assert all(c["seeds"] == list(range(int(asked["seeds"]))) for c in found["contrasts"])
            assert asked["json"] == f"experiments/results/{file}" and found["contrasts"]
    elif file.name == "step_times.json":
        assert file.parent.name == given["task"]
        assert {row["over_gvp"]["pairs"] for row in result["rows"]} == {int(given.get("repeats", 9))}
    elif file.name == "screening.json":
        assert [row["setting"] for row in result["rows"]] == list(SCREENED) and not result["unfinished"]
        assert {tuple(row["seeds"]) for row in result["rows"]} == {(0, 1, 2)}
    elif file.name == "does_it_pay.json":
        assert result["tasks"] and result["verdict"]
    elif file == Path("learn/summary.json"):
        assert result["tasks"].keys() <= set(finished_runs.TASKS)
    elif file.name == "equivalence.json":
        assert (result["steps"], result["batch_size"]) == (int(given["steps"]), int(given["batch-size"]))
    else:
        others = ("padding.json", "precision_cpu.json", "start_up.json", "results.json", "streaming.json")
        assert file.name in others


def timing(result):
    rows = result["measurements"]
    return {
        "passes": {row["pass"] for row in rows},
        "sweeps": set(result.get("sweeps", {})),
        "batch-size": rows[0]["batch_size"],
        "residues": rows[0]["residues"],
        "source": result["data"]["source"],
        "repeats": max(row["runs"] for row in rows if row["pass"] != "epoch"),
        "gap": "gap" in result,
    }


@pytest.mark.parametrize("name", timing_analysis.RUNS)
def test_a_timing_run_is_the_command_of_its_result(name):
    """What `python -m experiments.timing_analysis NAME` runs now is what made the committed file."""
    files = f"--json experiments/results/timing/{name}.json --markdown experiments/results/timing/{name}.md"
    command = f"partoken time {' '.join(timing_analysis.RUNS[name])} {files}"
    assert recorded(Path(f"timing/{name}.json")) == command


def test_results_with_default_settings_hold_them():
    """Commands without flags: the defaults of the scripts are what the files hold."""
    start_up = json.loads((RESULTS / "start_up.json").read_text())
    assert {len(row["seconds"]) for row in start_up["rows"].values()} == {3}
    demo = json.loads((RESULTS / "demo" / "results.json").read_text())
    assert {len(seconds) for seconds in demo["step_seconds"].values()} == {11}
    precision = json.loads((RESULTS / "precision" / "precision_cpu.json").read_text())
    assert (precision["batch_size"], precision["steps"]) == (8, 60)
    streaming = json.loads((RESULTS / "streaming" / "streaming.json").read_text())
    assert [row["chains"] for row in streaming["rows"]] == [2_000, 20_000, 200_000] * 3
    padding = json.loads((RESULTS / "padding.json").read_text())
    assert padding["epochs"] == 150 and {row["batch_size"] for row in padding["rows"]} == {16, 64}
