"""`partoken evaluate`: the scores of a checkpoint, or of a model that stands alone."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from partoken_jax.cli.files import check_input
from partoken_jax.config import ConfigError
from partoken_jax.settings import shown
from partoken_jax.training.run_directory import check_checkpoint

if TYPE_CHECKING:
    from partoken_jax.training.evaluate import EvaluationReport

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
                "file of a model (.safetensors). Nothing is written, and without --data the proteins are "
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
                'validation ("best"), or those of the last epoch ("last").'
            ),
        ] = "best",
        data: Annotated[
            Path | None,
            arg(
                help="File with proteins (.npz) to evaluate on in place of those of the run. Set it when the "
                "file has moved, or for proteins that the run did not know.",
                metavar="FILE",
            ),
        ] = None,
    ) -> Callable[[], None]:
        """Evaluate a checkpoint of a run and write RUN_DIR/evaluation_<split>.json; or evaluate a model."""
        if run_dir is not None and model is None:
            return partial(_evaluate, run_dir, split, checkpoint, data)
        if model is None or run_dir is not None:
            what = "Missing from" if model is None else "Too much for"
            raise ConfigError(
                f"{what} partoken evaluate: RUN_DIR or --model, one of them; see `partoken evaluate --help`"
            )
        if checkpoint != "best":
            raise ConfigError(
                f"--checkpoint {checkpoint} is of a run, but {shown(model)} is a whole model; leave it out"
            )
        return partial(_evaluate_model, model, split, data)

    return evaluate


def _evaluate(run_dir: Path, split: Split, checkpoint: Checkpoint, data: Path | None) -> None:
    # Before JAX is imported, which takes long.
    check_checkpoint(run_dir, checkpoint)
    check_input(data)

    from partoken_jax.training.compilation_cache import use_compilation_cache
    from partoken_jax.training.evaluate import evaluate, write_evaluation

    use_compilation_cache()
    report = evaluate(run_dir, split=split, checkpoint=checkpoint, data=None if data is None else str(data))
    _show(f"{run_dir}: {checkpoint} checkpoint (epoch {report['epoch']})", report)
    try:
        write_evaluation(report)
    except OSError as error:
        print(
            f"warning: {error.filename}: cannot be written ({error.strerror}), so the result is only printed",
            file=sys.stderr,
        )


def _evaluate_model(source: str, split: Split, data: Path | None) -> None:
    check_input(data)

    from partoken_jax.pretrained import find_model, load_model
    from partoken_jax.proteins.dataset import EMBEDDED

    if find_model(source).is_dir():  # whose proteins may be others than those of the package
        raise ConfigError(f"--model {source}: is the directory of a run; give it without --model")
    model = load_model(source)  # which imports JAX once it has been found

    from partoken_jax.training.compilation_cache import use_compilation_cache
    from partoken_jax.training.evaluate import evaluate_model

    use_compilation_cache()
    report = evaluate_model(model, split=split, data=str(EMBEDDED if data is None else data))
    _show(f"{source}: {model.config.model.kind} for {model.task}", report)


def _show(what: str, report: "EvaluationReport") -> None:
    """Prints the scores under a line that says of what."""
    from partoken_jax.training.report import clustering_summary, scores_table

    print(f"{what} on {report['data']}, {report['split']}")
    if report["cropped"]:
        print(f"{len(report['cropped'])} proteins cropped: {', '.join(report['cropped'][:10])}")
    print(scores_table(report["scores"]))
    if (clusters := report["scores"]["clustering"]) is not None:
        print(clustering_summary(clusters))
    sys.stdout.flush()
