"""From a source to a prepared set: nothing is changed, nothing is lost silently, and a killed run goes on."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from partoken_jax import progress
from partoken_jax.config import ConfigError
from partoken_jax.graphs import neighbour_tables
from partoken_jax.prepare import chunks, npz_files, prepare, run, sources
from partoken_jax.prepare.sources import READERS
from partoken_jax.proteins import DataError, load_splits, open_prepared, verify_prepared
from partoken_jax.proteins.dataset import EMBEDDED
from partoken_jax.proteins.neighbours import neighbour_table
from tests.structure_files import chain_of, structure_of, write_structure


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The embedded file, prepared by one process."""
    out = tmp_path_factory.mktemp("whole") / "out"
    prepare([str(EMBEDDED)], out, workers=1, neighbours=5)
    return out


@pytest.mark.parametrize(
    "task, scheme",
    [
        ("ec-class", "identity"),
        ("cath-class", "superfamily"),
        ("cath-architecture", "superfamily"),
        ("cath-superfamily", "identity"),
    ],
)
def test_a_npz_file_gives_the_same_proteins_labels_and_splits(task, scheme, whole):
    verify_prepared(whole)
    assert len(open_prepared(whole)) == 2297
    got, want = (load_splits(path, task=task, split_scheme=scheme) for path in (whole, EMBEDDED))
    for split in ("train", "val", "test"):
        assert list(got[split].names) == list(want[split].names)
        assert got[split].class_names == want[split].class_names
        np.testing.assert_array_equal(got[split].labels, want[split].labels)
        tables = neighbour_tables(got[split], 5)
        for i in range(0, len(want[split]), 50):
            same, protein = got[split][i], want[split][i]
            np.testing.assert_array_equal(same.backbone, protein.backbone)
            np.testing.assert_array_equal(same.residue_numbers, protein.residue_numbers)
            assert (same.sequence, same.chain) == (protein.sequence, protein.chain)
            table = neighbour_table(protein.backbone[:, 1], protein.complete, 5)
            np.testing.assert_array_equal(tables[i], table)


def test_the_number_of_processes_changes_nothing(some_npz, tmp_path, load, monkeypatch):
    monkeypatch.setattr(npz_files, "CHUNK", 60)
    for workers in (1, 2):
        prepare([str(some_npz)], tmp_path / f"out{workers}", workers=workers, neighbours=5)
    assert load(tmp_path / "out1")["json"] == load(tmp_path / "out2")["json"]


def start(source: Path, out: Path, workers: int) -> subprocess.Popen:
    """`partoken prepare` in a process of its own, with at least two chunks finished and more to come."""
    code = (
        "import sys, time; from partoken_jax.prepare import npz_files, prepare; npz_files.CHUNK = 100\n"
        "from partoken_jax.prepare import run\n"
        "run._counting = lambda update: lambda *told: time.sleep(0.3)\n"
        "if __name__ == '__main__':\n"
        "    prepare([sys.argv[1]], sys.argv[2], workers=int(sys.argv[3]), neighbours=5)"
    )
    script = out.parent / "script.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script), str(source), str(out), str(workers)])
    folder = out.with_name("out.partial")
    while len(list(folder.glob("*.npz"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    return process


def test_a_killed_run_goes_on_and_reads_nothing_twice(whole, tmp_path, load, monkeypatch, capsys):
    out = tmp_path / "out"
    process = start(EMBEDDED, out, workers=1)
    process.kill()
    process.wait()
    done = {int(path.stem) for path in (tmp_path / "out.partial").glob("*.npz")}
    assert 2 <= len(done) < 23 and not out.exists()

    monkeypatch.setattr(npz_files, "CHUNK", 100)
    read = []
    monkeypatch.setitem(
        READERS, "npz", lambda chunk: read.append(chunk["first"] // 100) or npz_files.read(chunk)
    )
    prepare([str(EMBEDDED)], out, workers=1, neighbours=5)
    assert sorted(read) == sorted(set(range(23)) - done)
    assert f"going on after {100 * len(done):,} of 2,297 proteins" in capsys.readouterr().out
    assert load(out)["json"]["fingerprint"] == load(whole)["json"]["fingerprint"]
    assert list(tmp_path.glob("out*")) == [out]


def test_what_is_finished_is_kept_when_a_process_dies(whole, tmp_path, load, monkeypatch, capsys):
    out, folder = tmp_path / "out", tmp_path / "out.partial"
    monkeypatch.setattr(npz_files, "CHUNK", 100)

    def killing(update):
        def count(*told):
            for process in multiprocessing.active_children()[:1]:
                os.kill(process.pid, signal.SIGKILL)

        return count

    with monkeypatch.context() as patch:
        patch.setattr(run, "_counting", killing)
        with pytest.raises(chunks.WorkerDiedError, match="died; run the command again"):
            prepare([str(EMBEDDED)], out, workers=2, neighbours=5)
    assert f"{folder}: unfinished; the same command goes on from there" in capsys.readouterr().out
    done = len(list(folder.glob("*.npz")))
    assert 1 <= done < 23
    prepare([str(EMBEDDED)], out, workers=1, neighbours=5)
    assert f"going on after {100 * done:,} of 2,297 proteins" in capsys.readouterr().out
    assert load(out)["json"]["fingerprint"] == load(whole)["json"]["fingerprint"]
    assert list(tmp_path.iterdir()) == [out]


def test_a_source_that_has_changed_is_read_anew(some_npz, tmp_path, load):
    source = tmp_path / "copy.npz"
    source.write_bytes(some_npz.read_bytes())
    plan = npz_files.plan(source)
    folder = tmp_path / "out.partial"

    def done(neighbours):
        with chunks.chunk_folder(folder, plan, neighbours) as done:
            chunks.read_chunks(folder, plan, neighbours, 1, lambda *told: None)
            return done

    total = sum(chunk["size"] for chunk in plan.chunks)
    assert [done(5), done(5), done(6), done(6)] == [0, total, 0, total]
    cut = sorted(folder.glob("*.npz"))[0]
    cut.write_bytes(cut.read_bytes()[:-100])  # as after a power failure
    assert done(6) == total - plan.chunks[0]["size"]
    os.utime(source, ns=(1, 1))
    assert done(6) == 0


def test_a_folder_has_one_process(some_npz, tmp_path):
    plan = npz_files.plan(some_npz)
    with chunks.chunk_folder(tmp_path / "out.partial", plan, 5):
        with pytest.raises(DataError, match="another process is at work there"):
            prepare([str(some_npz)], tmp_path / "out", neighbours=5)
        assert (tmp_path / "out.partial").exists()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to list processes")
def test_no_process_outlives_a_killed_run(tmp_path):
    process = start(EMBEDDED, tmp_path / "out", workers=2)
    started = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(started) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while alive := [pid for pid in started if Path(f"/proc/{pid}/cmdline").exists() and running(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_structures_with_labels_of_their_own(structures, table, chains, tmp_path, load, capsys):
    (structures / "broken.pdb").write_text("nothing")
    prepare([str(structures)], tmp_path / "out", labels=table(), workers=1, neighbours=4)
    found, said = load(tmp_path / "out"), capsys.readouterr().out
    names = [name.decode() for name in found["id"].tolist()]
    assert names == ["1abc_A", "2xyz_A", "4four_A", "5five_A", "6six_A", "äöü_A"]
    assert found["chain"].tolist() == [b"A"] * 6
    order = [0, 1, 3, 4, 5, 2]
    for i, j in enumerate(order):
        part = slice(*found["start"][i : i + 2])
        assert np.abs(found["backbone"][part] - chains[j].backbone).max() < 6e-4
        np.testing.assert_array_equal(found["residue_number"][part], chains[j].residue_numbers)
    assert found["json"]["labels"]["colour"]["classes"] == ["blue", "red"]
    assert found["labels/colour"].tolist() == [1, 0, -1, 0, -1, 1]
    assert found["json"]["labels"]["parts"] == {"classes": ["a", "b", "c"], "several": True, "labelled": 4}
    assert found["labels/parts"].tolist() == [0, 1, 0, 1, 2, 2]
    assert found["labels/parts.start"].tolist() == [0, 2, 3, 5, 6, 6, 6]
    assert found["splits/given"].tolist() == [0, 0, 2, 0, -1, 1]
    assert found["json"]["summary"]["classes"]["colour"]["given"]["train"] == {"blue": 2, "red": 1}
    assert "does not name 1 protein (6six_A)" in said and "names 1 id that no protein has (none)" in said
    listed = (tmp_path / "out" / "skipped.csv").read_text(encoding="utf-8")
    assert "broken,file,it holds no atoms" in listed and "none,label,no protein has this id" in listed
    assert {entry["name"] for entry in found["json"]["skipped"]} == {"broken", "none"}
    assert "left out: files 1, chains 0, proteins 0, labels 1" in said


def test_a_line_now_and_then_where_there_is_no_terminal(structures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.setattr(sources, "FILES", 4)
    prepare([str(structures)], tmp_path / "out", workers=1, neighbours=4)
    said = capsys.readouterr()
    first, second = [line for line in said.out.splitlines() if line.startswith("reading: ")]
    assert first.startswith("reading: 4 of 6 files, proteins 4, skipped 0, ") and "6 of 6 files" in second
    assert said.err == ""


def test_names_that_stand_twice_or_not_at_all(some_npz, tmp_path, load):
    with np.load(some_npz) as file:
        arrays = dict(file)
    ids = arrays["id"].copy()
    arrays["id"][3] = b"  "
    np.savez(tmp_path / "empty.npz", **arrays)
    prepare([str(tmp_path / "empty.npz")], tmp_path / "out", workers=1, neighbours=4)
    found = load(tmp_path / "out")
    assert found["id"].tolist() == np.delete(ids, 3).tolist()
    empty = {"name": "  ", "what": "protein", "reason": "its id is empty", "path": ""}
    assert found["json"]["skipped"] == [empty]
    arrays["id"] = ids
    arrays["id"][4] = ids[2]
    np.savez(tmp_path / "twice.npz", **arrays)
    with pytest.raises(DataError, match=f"twice.npz: two proteins have the id '{ids[2].decode()}'"):
        prepare([str(tmp_path / "twice.npz")], tmp_path / "other", workers=1, neighbours=4)
    assert not list(tmp_path.glob("other*"))


def test_without_splits_they_are_random_and_said_to_leak(structures, tmp_path, load, capsys):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare([str(structures)], tmp_path / name, split=(0.5, 0.5, 0.0), seed=seed, workers=1, neighbours=4)
    assert "homologues" in capsys.readouterr().out
    first, again, other = (load(tmp_path / name)["splits/random"] for name in "abc")
    assert sorted(first.tolist()) == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_chains_that_cannot_be_used_are_listed(tmp_path, chains, load):
    folder = tmp_path / "pdbs"
    folder.mkdir()
    bad = chain_of(chains[0], "A")
    for residue in bad:
        for atom in residue:
            atom.pos *= 0.1  # nanometres
    flat = chain_of(chains[0], "B")
    for residue in flat:
        for atom in residue:
            atom.pos.fromlist([1.0, 2.0, 3.0])
    bare = chain_of(chains[0], "C")
    for residue in bare:
        residue.remove_atom("O", "\0")
    write_structure(folder / "x.cif", structure_of([bad, flat, bare, chain_of(chains[1], "D")]))
    prepare([str(folder)], tmp_path / "out", workers=1, neighbours=4)
    reasons = {entry["name"]: entry["reason"] for entry in load(tmp_path / "out")["json"]["skipped"]}
    assert set(reasons) == {"x_A", "x_B", "x_C"}
    assert "another unit" in reasons["x_A"] and "in one place" in reasons["x_B"]
    assert "none of its residues has all four" in reasons["x_C"]


def test_a_file_whose_name_is_no_text_is_read(tmp_path, chains, load, capsys):
    folder = tmp_path / "pdbs"
    folder.mkdir()
    try:
        path = write_structure(folder / "prot\udce9ine.pdb", structure_of([chain_of(chains[0], "A")]))
    except OSError:
        pytest.skip("this file system takes text alone")
    (folder / "br\udce9k.pdb").write_text("nothing")
    write_structure(folder / "x.pdb", structure_of([chain_of(chains[1], "A")]))
    prepare([str(folder), str(path)], tmp_path / "out", workers=1, neighbours=4)
    found = load(tmp_path / "out")
    assert found["id"].tolist() == [b"prot\\udce9ine_A", b"x_A"]
    assert "br\\udce9k,file,it holds no atoms" in (tmp_path / "out" / "skipped.csv").read_text()
    assert [entry["name"] for entry in found["json"]["skipped"]] == ["br\\udce9k"]
    verify_prepared(tmp_path / "out")


def test_files_of_one_name_in_several_folders(structures, tmp_path, chains, load):
    before = structures / "1abc.pdb"
    write_structure(structures / "more" / "1abc.cif", structure_of([chain_of(chains[0], "A")]))
    prepare([str(structures), str(before)], tmp_path / "out", workers=1, neighbours=4)
    names = load(tmp_path / "out")["id"].tolist()
    assert [name for name in names if b"1abc" in name] == [b"pdbs_1abc_A", b"more_1abc_A"]


def test_only_a_prepared_set_is_ever_replaced(structures, tmp_path, load):
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset.json").write_text('{"format": "mine"}')
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="is not a prepared set"):
            prepare([str(structures)], out, overwrite=overwrite)
    assert (out / "dataset.json").read_text() == '{"format": "mine"}'

    (tmp_path / "other.partial").mkdir()
    (tmp_path / "other.partial" / "mine").touch()
    with pytest.raises(ConfigError, match="something else is there"):
        prepare([str(structures)], tmp_path / "other")
    assert (tmp_path / "other.partial" / "mine").exists()

    prepare([str(structures)], tmp_path / "set", workers=1, neighbours=4)
    with pytest.raises(ConfigError, match=r"already prepared.*--overwrite"):
        prepare([str(structures)], tmp_path / "set", workers=1, neighbours=5)
    with pytest.raises(DataError):
        prepare([str(tmp_path / "nowhere")], tmp_path / "set", overwrite=True)
    assert load(tmp_path / "set")["json"]["neighbours"] == 4
    (tmp_path / "set" / "checkpoints").mkdir()
    (tmp_path / "set" / "checkpoints" / "mine").touch()
    with pytest.raises(ConfigError, match="holds checkpoints/mine beside the prepared set"):
        prepare([str(structures)], tmp_path / "set", workers=1, neighbours=5, overwrite=True)
    (tmp_path / "set" / "checkpoints" / "mine").unlink()
    prepare([str(structures)], tmp_path / "set", workers=1, neighbours=5, overwrite=True)
    assert load(tmp_path / "set")["json"]["neighbours"] == 5
    assert not list(tmp_path.glob("set.*"))
