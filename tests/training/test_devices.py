"""Many devices and several processes: the same result as one, and what they tell each other."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from partoken_jax.cli import main
from partoken_jax.config import ConfigError, save_yaml
from partoken_jax.training.checkpoints import read_meta
from partoken_jax.training.devices import data_mesh, own_shards
from partoken_jax.training.records import read_records

from .on_devices import STARTED, train_on_devices

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    """What eight virtual devices find, by kind of model."""
    out = tmp_path_factory.mktemp("devices") / "eight.npz"
    flags = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-m", "tests.training.on_devices", str(out)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **flags}, check=True, timeout=300)
    arrays = dict(np.load(out))
    assert arrays.pop("devices") == 8
    kinds: dict[str, dict[str, np.ndarray]] = {"gvp": {}, "partoken": {}}
    for name, array in arrays.items():
        kind, _, rest = name.partition(".")
        kinds[kind][rest] = array
    return kinds


@pytest.mark.parametrize("kind", ["gvp", "partoken"])
def test_eight_devices_find_what_one_finds(kind, on_eight):
    """Clusters started from data, twenty steps with dropout, sampling of seeds, k-means and a moving
    codebook."""
    one, eight = train_on_devices(kind), on_eight[kind]
    assert one["losses"].shape == (20, 5)
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(eight["logits"], one["logits"], atol=1e-5)
    for name in ("labels", "cluster_sizes", "codes", "num_residues"):
        np.testing.assert_array_equal(eight[name], one[name], name)
    if kind == "partoken":
        for name in STARTED:
            np.testing.assert_allclose(eight[name], one[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert len(np.unique(one["codes"])) > 2
        for name in (name for name in one if name.startswith("codebook")):
            np.testing.assert_allclose(eight[name], one[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_step_is_one_all_reduce_and_two_for_partoken(on_eight):
    """ParToken's losses divide by the number of clusters of all devices, and coverage reads the codebook
    after its update: that has to be known in the forward pass, before there is any gradient to sum."""
    assert list(on_eight["gvp"]["collectives"]) == ["all-reduce"] * 2
    assert list(on_eight["partoken"]["collectives"]) == ["all-reduce,all-reduce"] * 2


def test_one_device_needs_no_mesh():
    assert data_mesh(1) is None is own_shards(None)
    with pytest.raises(ConfigError, match=r"devices is 4096, but there are only 1 \(cpu\); lower it"):
        data_mesh(4096)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--num-processes", "2", "--process-id", "0"], "need --coordinator"),
        (["--coordinator", "localhost:1", "--num-processes", "2"], "needs --num-processes and --process-id"),
        (["--coordinator", "auto", "--num-processes", "2"], "give the three together"),
        (
            ["--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "2"],
            "process-id is 2, but must be a whole number from 0 to 1",
        ),
    ],
)
def test_flags_that_do_not_fit_are_a_mistake(flags, said, tmp_path, capsys):
    assert main(["train", "--run-dir", str(tmp_path / "run"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert not (tmp_path / "run").exists()


PROCESS = """
import json, sys
from partoken_jax.graphs import loader
log, *words = sys.argv[1:]
pack, get = loader.pack_flat, loader.PackedBatches.__getitem__
def note(**what):
    with open(log, "a") as file:
        file.write(json.dumps(what) + chr(10))
def watched_pack(flat, places, **options):
    note(proteins=len(places))
    return pack(flat, places, **options)
def watched_get(self, number):
    note(shards=list(self.shards))
    return get(self, number)
loader.pack_flat, loader.PackedBatches.__getitem__ = watched_pack, watched_get
from partoken_jax.cli import main
sys.exit(main(words))
"""
"""`partoken`, with a log of the batches and shards that it reads."""


class Processes:
    """Two processes that train together; what each prints, and the proteins that it reads, are in files."""

    def __init__(self, directory: Path, *words: str):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        together = ["--coordinator", address, "--num-processes", "2"]
        self.directory = directory
        self.running = []
        for number in (0, 1):
            command = [sys.executable, "-c", PROCESS, str(directory / f"read{number}.json")]
            command += ["train", *words, *together, "--process-id", str(number)]
            with (directory / f"out{number}").open("w") as out:
                self.running.append(subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out))

    def wait(self) -> list[int]:
        try:
            return [process.wait(timeout=120) for process in self.running]
        finally:
            for process in self.running:
                process.kill()

    def said(self, number: int) -> str:
        return (self.directory / f"out{number}").read_text()

    def read(self, number: int) -> list[dict]:
        return [json.loads(line) for line in (self.directory / f"read{number}.json").read_text().splitlines()]


def until_epoch(log, number):
    """Returns when a run has written so many records."""
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.read_text().count("\n") >= number) and time.monotonic() < deadline:
        time.sleep(0.02)


def test_two_processes_are_killed_stopped_and_resumed_to_the_losses_of_one(partoken_run, tmp_path):
    straight, report, expected = partoken_run
    run_dir = tmp_path / "run"
    save_yaml(straight, tmp_path / "settings.yaml")
    words = ["--config", str(tmp_path / "settings.yaml"), "--run-dir", str(run_dir), "--resume"]
    first = Processes(tmp_path, *words)
    log = run_dir / "metrics.jsonl"
    until_epoch(log, 1)
    first.running[1].send_signal(signal.SIGKILL)
    codes = first.wait()
    assert codes[1] == -signal.SIGKILL
    assert codes[0] == 75, first.said(0)
    assert "another process of the run was lost" in first.said(0) and "Traceback" not in first.said(0)

    stopped = Processes(tmp_path, *words)
    until_epoch(log, 3)
    stopped.running[1].send_signal(signal.SIGTERM)  # both stop, after the same step
    assert stopped.wait() == [75, 75], stopped.said(0) + stopped.said(1)
    assert "and saved" in stopped.said(0) and "Traceback" not in stopped.said(1)

    second = Processes(tmp_path, *words)
    assert second.wait() == [0, 0], second.said(0) + second.said(1)
    assert "going on after" in second.said(0)
    assert "epoch" not in second.said(1)  # the first alone prints
    records = read_records(log)
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5]
    for mine, one in zip(records, expected, strict=True):
        np.testing.assert_allclose(mine["step_losses"], one["step_losses"], rtol=1e-5, atol=1e-6)
        assert mine["codes_reseeded"] == one["codes_reseeded"]
        counted, alone = (record["validation"]["clustering"] for record in (mine, one))
        rounded = {"effective_dimension", "quantisation_error"}  # of features that rounding moves
        for name in rounded & alone.keys():
            assert counted[name] == pytest.approx(alone[name], rel=1e-5)
        assert {k: v for k, v in counted.items() if k not in rounded} == {
            k: v for k, v in alone.items() if k not in rounded
        }
    assert read_meta(run_dir, "last")["epoch"] == 5
    final = json.loads((run_dir / "report.json").read_text())
    assert final["test"]["classification"] == report["test"]["classification"]
    for number in (0, 1):  # of every batch its own shard and nothing else
        read = second.read(number)
        batches = [note["shards"] for note in read if "shards" in note]
        assert len(batches) > 10 and all(shards == [number] for shards in batches)
        # At its end a process may have begun a batch that nobody waits for.
        assert 0 <= len(batches) - sum("proteins" in note for note in read) <= 1
