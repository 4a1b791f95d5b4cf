"""Files of settings: what is no YAML, no settings, or more than anybody can mean."""

import os

from tests.bad_input.case import Case
from tests.bad_input.made_files import sparse, write

TRAIN = ("train", "--config", "c.yaml")
LAUGHS = "a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def _file(name: str, content: str | bytes, *words: str) -> Case:
    return Case(f"YAML: {name}", TRAIN, ("c.yaml: ", *words), write("c.yaml", content))


CASES = [
    _file("a list", "- 1\n- 2\n", "holds no settings", "'name: value'"),
    _file("text", "settings", "holds no settings", "'name: value'"),
    _file("a number", "3", "holds no settings", "'name: value'"),
    _file("binary", bytes(range(256)), "not valid YAML", "'name: value'"),
    _file("control characters", "seed: \x01", "not valid YAML", "'name: value'"),
    _file("Latin-1", "run_dir: L\xe4ufe".encode("latin-1"), "not valid YAML", "utf-8"),
    _file("UTF-16", "seed: 1".encode("utf-16"), "not valid YAML"),
    _file("a JSON cut off", '{"seed": 1, "model": {', "not valid YAML", "line 1"),
    _file("tabs", "model:\n\tkind: gvp\n", "not valid YAML", "line 2"),
    _file("two documents", "seed: 1\n---\nseed: 2\n", "not valid YAML", "line 2"),
    _file("a name twice", "seed: 1\nseed: 2\n", "'seed' is set twice", "keep one"),
    _file(
        "a name twice in a group", "model: {dropout: 0.1, dropout: 0.2}", "'dropout' is set twice", "keep one"
    ),
    _file(
        "a thousand laughs",
        LAUGHS,
        "not valid YAML",
        "line 2: *a refers to another place",
        "write the value out",
    ),
    _file("a reference to itself", "model: &a {partitioner: *a}", "*a refers", "write the value out"),
    _file("merged laughs", "a: &a {b: 1}\nc: {<<: [*a, *a]}\n", "*a refers", "write the value out"),
    _file("5,000 levels deep", "model: " + "[" * 5000, "more than 20 groups within groups"),
    _file("5,000 groups deep", "{a: " * 5000 + "1" + "}" * 5000, "more than 20 groups within groups"),
    _file("lists 5,000 deep", "- " * 5000 + "1", "more than 20 groups within groups"),
    _file("Python objects", "seed: !!python/object/apply:os.getcwd []", "not valid YAML"),
    _file("a date that is none", "seed: 2024-99-99", "not valid YAML"),
    _file("a number of 5,000 digits", f"seed: {'9' * 5000}", "not valid YAML", "4300"),
    _file("a number of 4,000 digits", f"seed: {'9' * 4000}", "seed is ", "from 0 to 4,294,967,295"),
    _file("a value of 90,000 characters", f"seed: {'x' * 90_000}", "seed is 'xxx", "from 0 to 4,294,967,295"),
    _file("a name of 1,000 characters", f"{'x' * 1000}: 1", "no setting called 'xxx", "only run_dir, seed"),
    _file("a zero byte in a path", 'data: {path: "a\\0b"}', "data.path is 'a\\x00b'", "no zero byte"),
    _file("an unknown name", "sead: 1", "no setting called 'sead'", "only run_dir, seed"),
    _file(
        "an unknown name in a group",
        "model: {layers: 3}",
        "model has no setting called 'layers'",
        "num_layers",
    ),
    _file("a name that is a number", "3: 4", "no setting called 3", "only run_dir"),
    _file("a value for a group", "model: 3", "model is 3", "a group of settings such as kind"),
    _file("nothing for a group", "data:", "data is None", "a group of settings such as path"),
    _file("a group for a value", "seed: {a: 1}", "seed is {'a': 1}", "a whole number"),
    _file("a list for a value", "seed: [1]", "seed is [1]", "a whole number"),
    _file("true for a number", "seed: true", "seed is True", "a whole number"),
    _file("a number for a switch", "reseed_dead_codes: 1", "reseed_dead_codes is 1", "true or false"),
    _file("a number for a path", "run_dir: 3", "run_dir is 3", "text"),
    _file("an unknown choice", "data: {too_long: drop}", "data.too_long is 'drop'", "'refuse' or 'crop'"),
    _file(
        "three widths", "model: {node_hidden: [1, 2, 3]}", "model.node_hidden is [1, 2, 3]", "2 whole numbers"
    ),
    Case("YAML: 1 GB", TRAIN, ("c.yaml", "1,073,741,824 bytes", "at most 100,000"), sparse("c.yaml", 2**30)),
    Case(
        "YAML: a directory",
        TRAIN,
        ("c.yaml: cannot be read (is a directory)", "give a file"),
        lambda d: (d / "c.yaml").mkdir(),
    ),
    Case("YAML: a pipe", TRAIN, ("c.yaml: cannot be read (is a pipe",), lambda d: os.mkfifo(d / "c.yaml")),
    Case(
        "YAML: a link to nothing",
        TRAIN,
        ("c.yaml: cannot be read (a link to",),
        lambda d: (d / "c.yaml").symlink_to("gone"),
    ),
    Case(
        "YAML: a link to itself",
        TRAIN,
        ("c.yaml: cannot be read (",),
        lambda d: (d / "c.yaml").symlink_to("c.yaml"),
    ),
    Case(
        "YAML: endless",
        ("train", "--config", "/dev/zero"),
        ("/dev/zero: cannot be read (is a pipe or a device",),
    ),
    Case("YAML: nowhere", TRAIN, ("c.yaml: cannot be read (no such file)", "give a file of settings")),
    Case("YAML: an empty name", ("train", "--config", ""), ("cannot be read (is a directory)",)),
    Case(
        "YAML: a name beyond the system's",
        ("train", "--config", "x" * 300),
        ("cannot be read (file name too long)",),
    ),
    Case(
        "YAML: beneath a file",
        ("train", "--config", "a/c.yaml"),
        ("cannot be read (not a directory)",),
        write("a", ""),
    ),
    Case(
        "YAML: for convert",
        ("convert", "w.npz", "run", "--config", "c.yaml"),
        ("c.yaml: ", "'sead'"),
        write("c.yaml", "sead: 1"),
    ),
    Case(
        "YAML: of a run to resume",
        ("train", "--resume", "--run-dir", "run"),
        ("run/config.yaml: ", "'seed' is set twice"),
        lambda d: ((d / "run").mkdir(), (d / "run" / "config.yaml").write_text("seed: 1\nseed: 2")),
    ),
]
