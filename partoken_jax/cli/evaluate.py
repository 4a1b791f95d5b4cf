"""`partoken evaluate`: the scores of a checkpoint, or of a model that stands alone."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from tyro.conf import Positional, arg

from partoken_jax.cli.files import check_input, save_json
from partoken_jax.config import ConfigError
from partoken_jax.settings import shown
from partoken_jax.training.run_directory import check_checkpoint

if TYPE_CHECKING:
    from partoken_jax.training.evaluate import EvaluationReport
    from partoken_jax.training.trained import TrainedModel

Split = Literal["train", "val", "test"]
Checkpoint = Literal["best", "last"]


def verb(args: list[str]) -> Callable[..., Callable[[], None]]:
    """The flags of `partoken evaluate`, as a function that tyro reads."""

    def evaluate(
        run_dir: Annotated[
            Positional[Path | None], arg(help="Directory of the run.", metavar="[RUN_DIR]")
        ] = None,
        model: Annotated[
            str | None,
            arg(
                help="Model to evaluate in place of a run: the name of one that comes with the package, or a "
                "file of a model (.safetensors). Scores are not written, and without --data the proteins are "
                "those that come with the package.",
                metavar="NAME|FILE",
            ),
        ] = None,
        split: Annotated[
            Split,
            arg(
                help="Proteins to evaluate on: those for training, validation or test. Choose validation to "
                "compare settings with each other."
            ),
        ] = "test",
        checkpoint: Annotated[
            Checkpoint,
            arg(
                help="Weights of the run to evaluate: those of the epoch with the highest accuracy in "
                'validation ("best"; with a codebook, of stage 1), or those of the last epoch ("last").'
            ),
        ] = "best",
        data: Annotated[
            Path | None,
            arg(
                help="File with proteins (.npz), or prepared set, to evaluate on in place of those of the "
                "run. Set it when they have moved, or for proteins that the run did not know.",
                metavar="FILE|FOLDER",
            ),
        ] = None,
        task: Annotated[
            str | None,
            arg(
                help="Labels of --data to compare with, where they have another name than in the run.",
                metavar="NAME",
            ),
        ] = None,
        split_scheme: Annotated[
            str | None,
            arg(
                help="Split scheme of --data, where it has another one than the run's.",
                metavar="NAME",
            ),
        ] = None,
        details: Annotated[
            bool,
            arg(
                help="Whether to write details as well, to OUT/details_<split>: confusion matrix, "
                "calibration, clusters, codes and the classes that they go with, and a page of the codebook. "
                "Switch it on to look into a model."
            ),
        ] = False,
        sites: Annotated[
            bool,
            arg(
                help="Whether to ask as well if the clusters find the catalytic residues of M-CSA, and to "
                "write OUT/sites_<split>.json; it needs the extra partoken_jax[sites]. Switch it on for "
                "enzymes from the PDB."
            ),
        ] = False,
        out: Annotated[
            Path | None,
            arg(
                help="Folder for what --details and --sites write; without it, that of the run.",
                metavar="FOLDER",
            ),
        ] = None,
    ) -> Callable[[], None]:
        """Evaluate a checkpoint of a run and write RUN_DIR/evaluation_<split>.json; or evaluate a model."""
        if out is not None and not (details or sites):
            raise ConfigError("--out is for --details and --sites; give one of them")
        other = _Data(None if data is None else str(data), task, split_scheme)
        if run_dir is not None and model is None:
            more = _More(out or run_dir, details, sites)
            return partial(_evaluate, run_dir, split, checkpoint, other, more)
        if model is None or run_dir is not None:
            what = "Missing from" if model is None else "Too much for"
            raise ConfigError(
                f"{what} partoken evaluate: RUN_DIR or --model, one of them; see `partoken evaluate --help`"
            )
        if checkpoint != "best":
            raise ConfigError(
                f"--checkpoint {checkpoint} is of a run, but {shown(model)} is a whole model; leave it out"
            )
        if out is None and (details or sites):
            raise ConfigError(f"{shown(model)} has no directory; name a folder for the files with --out")
        return partial(_evaluate_model, model, split, other, _More(out or Path(), details, sites))

    return evaluate


class _Data(NamedTuple):
    """What is asked for in place of the run's own settings."""

    data: str | None
    task: str | None
    split_scheme: str | None


class _More(NamedTuple):
    """What is asked for beside the scores."""

    folder: Path
    details: bool
    sites: bool

    def check(self) -> None:
        """Raises DataError where M-CSA is asked for and not installed."""
        if self.sites:
            from partoken_jax.interpret.mcsa import mcsa_file

            mcsa_file()


def _evaluate(run_dir: Path, split: Split, checkpoint: Checkpoint, other: _Data, more: _More) -> None:
    # Before JAX is imported, which takes long.
    from partoken_jax.pretrained import model_names

    if not run_dir.exists() and str(run_dir) in model_names():
        raise ConfigError(f"{run_dir} is a model of the package, not a run; give it as --model {run_dir}")
    check_checkpoint(run_dir, checkpoint)
    check_input(other.data)
    more.check()

    from partoken_jax.training.compilation_cache import use_compilation_cache
    from partoken_jax.training.evaluate import evaluate_model, write_evaluation
    from partoken_jax.training.trained import trained_run

    use_compilation_cache()
    model = trained_run(run_dir, checkpoint)
    report = evaluate_model(model, split=split, checkpoint=checkpoint, **other._asdict())
    _show(f"{run_dir}: {checkpoint} checkpoint (epoch {report['epoch']})", report)
    try:
        write_evaluation(report)
    except OSError as error:
        print(
            f"warning: {error.filename}: cannot be written ({error.strerror}), so the result is only printed",
            file=sys.stderr,
        )
    _add(more, model, report, split, other)


def _evaluate_model(source: str, split: Split, other: _Data, more: _More) -> None:
    check_input(other.data)
    more.check()

    from partoken_jax.pretrained import find_model, load_model
    from partoken_jax.proteins.dataset import EMBEDDED

    if find_model(source).is_dir():  # whose proteins may be others than those of the package
        raise ConfigError(f"--model {source}: is the directory of a run; give it without --model")
    model = load_model(source)  # which imports JAX once it has been found

    from partoken_jax.training.compilation_cache import use_compilation_cache
    from partoken_jax.training.evaluate import evaluate_model

    use_compilation_cache()
    if other.data is None:
        other = other._replace(data=str(EMBEDDED))
    report = evaluate_model(model, split=split, **other._asdict())
    _show(f"{source}: {model.config.model.kind} for {model.task}", report)
    _add(more, model, report, split, other)


def _add(more: _More, model: "TrainedModel", report: "EvaluationReport", split: Split, other: _Data) -> None:
    """Writes and prints what is asked for beside the scores."""
    if not (more.details or more.sites):
        return
    from partoken_jax.training.evaluate import data_settings, evaluation_data

    dataset, _ = evaluation_data(model, split, data_settings(model, **other._asdict()))
    more.folder.mkdir(parents=True, exist_ok=True)
    if more.details:
        from partoken_jax.interpret.evaluated import write_evaluated_details

        folder = more.folder / f"details_{split}"
        write_evaluated_details(folder, model, dataset, report)
        print(
            f"{folder}: details.md, and the tables and the picture that it is made of; codebook.html shows "
            "the codes, if there are any, in a browser"
        )
    if more.sites:
        from partoken_jax.interpret.evaluated import evaluated_sites
        from partoken_jax.interpret.site_table import sites_table, verdict

        found = evaluated_sites(model, dataset)
        save_json(more.folder / f"sites_{split}.json", found)
        print(
            f"{found['matched']} of the {found['asked']} catalytic residues that M-CSA lists are found, by "
            f"{found['numbering']} number and type; sites_{split}.json lists the others"
        )
        print(verdict(found), sites_table(found), sep="\n")
    sys.stdout.flush()


def _show(what: str, report: "EvaluationReport") -> None:
    """Prints the scores under a line that says of what."""
    from partoken_jax.training.report import clustering_summary, scores_table

    print(f"{what} on {report['data']}, {report['task']}, {report['split_scheme']} {report['split']}")
    if report["cropped"]:
        print(f"{len(report['cropped'])} proteins cropped: {', '.join(report['cropped'][:10])}")
    print(scores_table(report["scores"]))
    if (clusters := report["scores"]["clustering"]) is not None:
        print(clustering_summary(clusters))
    sys.stdout.flush()
