"""Words of the command line: verbs, flags, values, paths of what is to be written."""

import os
from pathlib import Path

from tests.bad_input.case import Case

HUGE = str(2**40)


def _train(flag: str, value: str, *words: str) -> Case:
    return Case(f"train {flag} {value[:30]}", ("train", flag, value), words)


def _run(folder: Path) -> None:
    """A directory that is taken, though by no run."""
    (folder / "run").mkdir()
    (folder / "run" / "notes.txt").write_text("mine")


CASES = [
    Case("no verb", (), ("Expected one of {annotate, train,", "partoken --help")),
    Case("an empty verb", ("",), ("partoken --help",)),
    Case("an unknown verb", ("trian",), ("trian", "train, evaluate,")),
    Case("a verb in capitals", ("TRAIN",), ("TRAIN", "train, evaluate,")),
    Case("a flag in place of a verb", ("--seed", "3"), ("--seed", "partoken --help")),
    Case("an unknown flag", ("train", "--nonsense"), ("--nonsense", "--help")),
    Case("nearly a flag", ("train", "--sed", "3"), ("--sed", "perhaps --seed is meant")),
    Case(
        "nearly a flag of a group",
        ("train", "--data.batchsize", "3"),
        ("perhaps --data.batch-size is meant",),
    ),
    Case("a flag of another verb", ("evaluate", "run", "--seed", "3"), ("--seed",)),
    Case("a word too many", ("evaluate", "a", "b"), ("options: b", "--help")),
    Case("two values for one", ("train", "--seed", "1", "2"), ("options: 2",)),
    Case("a flag without value", ("train", "--seed"), ("--seed", "expected 1 value")),
    Case("one value for two", ("train", "--model.node-hidden", "1"), ("--model.node-hidden", "expected 2")),
    Case("a value for a switch", ("train", "--model.codebook.no-enabled", "maybe"), ("maybe",)),
    Case("evaluate without a run", ("evaluate",), ("RUN_DIR", "partoken evaluate --help")),
    Case(
        "evaluate a run and a model",
        ("evaluate", "run", "--model", "a"),
        ("RUN_DIR or --model", "one of them"),
    ),
    Case(
        "a model that does not exist",
        ("evaluate", "--model", "cath-arkitecture"),
        ("cath-arkitecture", "no model in the package of that name", "check the path"),
    ),
    Case(
        "a checkpoint of a model",
        ("evaluate", "--model", "a", "--checkpoint", "last"),
        ("--checkpoint last", "leave it out"),
    ),
    Case(
        "a model that is a run without checkpoint",
        ("evaluate", "--model", "run"),
        ("run holds no 'best' checkpoint", "directory of a run"),
        _run,
    ),
    Case(
        "a model that is a run",
        ("evaluate", "--model", "run"),
        ("run: is the directory of a run", "without --model"),
        lambda folder: (folder / "run" / "checkpoints" / "best" / "1").mkdir(parents=True),
    ),
    Case(
        "a model that is another file",
        ("evaluate", "--model", "run/notes.txt"),
        ("notes.txt", "ends in .safetensors"),
        _run,
    ),
    Case("an unknown preset", ("train", "--preset", "tiny"), ("'tiny'", "'published'", "'small'")),
    Case("a preset without name", ("train", "--preset"), ("--preset", "expected one argument")),
    Case("convert without a target", ("convert", "a.npz"), ("TARGET", "partoken convert --help")),
    Case("time without a file", ("time", "--json"), ("--json", "expected 1 value")),
    _train("--model", "cnn", "'cnn'", "'gvp', 'partoken'"),
    _train("--model", "", "''", "'gvp', 'partoken'"),
    _train("--model.pooling", "median", "'median'", "'mean', 'max'"),
    _train("--model.precision", "float16", "'float16'", "'bfloat16'"),
    _train("--data.too-long", "drop", "'drop'", "'refuse', 'crop'"),
    _train("--seed", "-1", "seed is -1", "from 0 to 4,294,967,295"),
    _train("--seed", "4294967296", "seed is 4294967296", "from 0 to 4,294,967,295"),
    _train("--seed", "1.5", "seed is '1.5'", "a whole number"),
    _train("--seed", "", "seed is ''", "a whole number"),
    _train("--seed", "x" * 5000, "seed is 'xxx", "a whole number"),
    _train("--seed", "9" * 5000, "seed is '999", "a whole number"),
    _train("--model.num-layers", HUGE, "model.num_layers is 1099511627776", "from 1 to 100"),
    _train("--model.num-layers", "0", "model.num_layers is 0", "from 1 to 100"),
    _train("--model.codebook.size", "1000000000000", "model.codebook.size", "from 1 to 1,000,000"),
    _train("--model.codebook.epsilon", "-1", "model.codebook.epsilon is -1", "1e-30"),
    _train("--model.codebook.decay", "1", "model.codebook.decay is 1.0", "less than 1"),
    _train("--model.partitioner.max-clusters", HUGE, "max_clusters", "from 1 to 1,000"),
    _train("--model.partitioner.hidden", "1000000", "partitioner.hidden", "from 1 to 4,096"),
    _train("--model.dropout", "nan", "model.dropout is nan", "finite"),
    _train("--data.neighbours", "1000000", "data.neighbours is 1000000", "from 1 to 1,000"),
    _train("--data.batch-size", "0", "data.batch_size is 0", "from 1 to 100,000"),
    _train("--data.max-train", "0", "data.max_train is 0", "or none"),
    _train("--data.path", "", "data.path is ''", "not empty"),
    _train("--run-dir", "", "run_dir is ''", "not empty"),
    _train("--stage0.epochs", "1000000000", "stage0.epochs is 1000000000", "from 0 to 10,000"),
    _train("--stage0.learning-rate", "inf", "stage0.learning_rate is inf", "finite"),
    _train("--stage0.learning-rate", "1e400", "stage0.learning_rate is inf", "finite"),
    _train("--stage0.learning-rate", "0", "stage0.learning_rate is 0.0", "1e-30"),
    _train("--stage0.learning-rate", "1e-400", "stage0.learning_rate is 0.0", "1e-30"),
    _train("--stage1.warmup-epochs", "-inf", "stage1.warmup_epochs is -inf", "from 0"),
    _train("--temperature.final", "0", "temperature.final is 0.0", "1e-06"),
    _train("--loss.vq", "1e300", "loss.vq is 1e+300", "1,000,000"),
    _train("--model.attention-heads", "3", "model.attention_heads is 3", "must divide"),
    _train("--init-from", "nowhere", "nowhere: no such file", "check the path"),
    Case(
        "starting from what is no run",
        ("train", "--init-from", "run", "--run-dir", "new"),
        ("run holds no 'best' checkpoint", "directory of a run"),
        _run,
    ),
    Case(
        "widths of 0 and -4",
        ("train", "--model.node-hidden", "0", "-4"),
        ("node_hidden is (0, -4)", "from 1 to 4,096"),
    ),
    Case("widths beyond memory", ("train", "--model.node-hidden", HUGE, "16"), ("node_hidden", "4,096")),
    Case(
        "node features that none has",
        ("train", "--model.node-in", "7", "3"),
        ("model.node_in is (7, 3)", "(6, 3)"),
    ),
    Case(
        "edge features that none has",
        ("train", "--model.edge-in", "32", "2"),
        ("model.edge_in is", "(32, 1)"),
    ),
    Case(
        "time with other features",
        ("time", "--model.node-in", "7", "3"),
        ("model.node_in is (7, 3)", "(6, 3)"),
    ),
    Case("tuning nothing", ("tune", "--batch-size", "0"), ("batch_size is 0", "from 1 to 100,000")),
    Case(
        "tuning a form of one's own",
        ("tune", "--model.rematerialise", "none"),
        ("--model.rematerialise", "partoken tune --help"),
    ),
    Case(
        "several mistakes, all named",
        ("train", "--seed", "-1", "--stage0.epochs", "x", "--data.batch-size", "0"),
        ("seed is -1", "stage0.epochs is 'x'", "data.batch_size is 0"),
    ),
    Case(
        "a form that the computation lacks",
        ("train", "--model.message-passing", "general", "--model.rematerialise", "chunk"),
        ("rematerialise is 'chunk'", "must be 'auto', 'none' or 'layer'"),
    ),
    Case(
        "a codebook frozen throughout",
        ("train", "--stage1.epochs", "3", "--freeze-codebook-epochs", "3"),
        ("freeze_codebook_epochs is 3", "set freeze_codebook_epochs to"),
    ),
    Case(
        "resume and overwrite",
        ("train", "--resume", "--overwrite"),
        ("--overwrite and --resume", "choose one"),
    ),
    Case(
        "no epochs",
        ("train", "--stage0.epochs", "0", "--stage1.epochs", "0"),
        ("stage0.epochs", "at least one"),
    ),
    Case(
        "a run directory that is taken",
        ("train", "--run-dir", "run"),
        ("run has content, but is not the directory of a run", "choose another --run-dir"),
        _run,
    ),
    Case(
        "overwriting what is no run",
        ("train", "--run-dir", "run", "--overwrite"),
        ("run has content, but is not the directory of a run", "choose another --run-dir"),
        _run,
    ),
    Case(
        "a run directory that is a file",
        ("train", "--run-dir", "run"),
        ("run is a file", "--run-dir"),
        lambda folder: (folder / "run").write_text("mine"),
    ),
    Case(
        "proteins that are too long",
        ("train", "--data.max-length", "399"),
        ("max_length = 399", "too_long: crop"),
    ),
    Case(
        "evaluating nothing",
        ("evaluate", "nothing"),
        ("nothing does not exist", "directory of a run"),
    ),
    Case("evaluating an empty name", ("evaluate", ""), ("directory of a run",)),
    Case(
        "evaluating what is no run",
        ("evaluate", "run"),
        ("run holds no 'best' checkpoint", "directory of a run"),
        _run,
    ),
    Case(
        "evaluating a file",
        ("evaluate", "run"),
        ("run is a file", "directory of a run"),
        lambda folder: (folder / "run").write_text("mine"),
    ),
    Case("an unknown split", ("evaluate", "a", "--split", "tets"), ("'tets'", "'train', 'val', 'test'")),
    Case("an unknown checkpoint", ("evaluate", "a", "--checkpoint", "3"), ("'3'", "'best', 'last'")),
    Case("no classes", ("params", "--num-classes", "0"), ("num_classes is 0", "from 2 to 100,000")),
    Case(
        "classes in words", ("params", "--num-classes", "many"), ("num_classes is 'many'", "a whole number")
    ),
    Case("classes without end", ("params", "--num-classes", HUGE), ("num_classes", "from 2 to 100,000")),
    Case(
        "an unknown model to time", ("time", "--models", "gvp,cnn"), ("models is ('gvp', 'cnn')", "'gvp' and")
    ),
    Case("no models to time", ("time", "--models", ""), ("models is ()", "one or more of")),
    Case("an unknown pass", ("time", "--passes", "backward"), ("passes", "'train_step'")),
    Case("an unknown sweep", ("time", "--sweeps", "batch,breadth"), ("sweeps", "'length'")),
    Case("timing nothing", ("time", "--repeats", "0"), ("repeats is 0", "from 1 to 100,000")),
    Case("proteins without residues", ("time", "--residues", "0"), ("residues is 0", "from 1 to 100,000")),
    Case("proteins without end", ("time", "--residues", HUGE), ("residues", "from 1 to 100,000")),
    Case(
        "real and synthetic proteins",
        ("time", "--residues", "100", "--data", "a.npz"),
        ("residues is 100", "must be left out"),
    ),
    Case("results in no directory", ("time", "--json", "no/a.json"), ("no/a.json", "make it first")),
    Case("a report in no directory", ("time", "--markdown", "no/a.md"), ("no/a.md", "make it first")),
    Case(
        "results in place of a directory",
        ("time", "--json", "run"),
        ("run: is a directory", "name a file in it"),
        _run,
    ),
    Case(
        "timing proteins that are not there", ("time", "--data", "no.npz"), ("no.npz: no such file", ".npz")
    ),
    Case(
        "a comparison without a directory",
        ("python", "-m", "experiments.compare", "--json", "no/a.json"),
        ("no/a.json", "make it first"),
        heavy=True,
    ),
    Case(
        "weights of a run into no directory",
        ("convert", "run", "no/w.npz"),
        ("run holds no 'best' checkpoint", "directory of a run"),
        _run,
    ),
    Case(
        "settings for a run that has its own",
        ("convert", "run", "w.npz", "--model.dropout", "0.2"),
        ("run is a run", "leave out model.dropout"),
        _run,
    ),
]

SCRIPTS = {
    "before_after": ("--before", "nothing"),
    "compare": ("--batch-size", "x"),
    "demo": ("--repeats", "0"),
    "docs": ("--nonsense",),
    "gpu_suite": ("--part", "x"),
    "padding": ("--data", "no.npz"),
    "parity": ("--vectors", "nothing"),
    "precision": ("--steps", str(2**40)),
    "start_up": ("--json", "no/a.json"),
    "ship": ("--name", "a", "nothing"),
    "train": ("--seed", "-1"),
}
CASES += [
    Case(f"experiments.{name}", ("python", "-m", f"experiments.{name}", *flags), (flags[-1],), heavy=True)
    for name, flags in SCRIPTS.items()
]

if os.getuid() != 0:  # root may read everything
    CASES.append(
        Case(
            "settings that may not be read",
            ("train", "--config", "c.yaml"),
            ("c.yaml", "permission denied"),
            lambda folder: ((folder / "c.yaml").write_text("seed: 1"), (folder / "c.yaml").chmod(0)),
        )
    )
