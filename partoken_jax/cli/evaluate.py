"""`partoken evaluate`: the scores of a checkpoint."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from partoken_jax.cli.files import check_input
from partoken_jax.training.run_directory import check_checkpoint

Split = Literal["train", "val", "test"]
Checkpoint = Literal["best", "last"]


def verb(args: list[str]) -> Callable[..., Callable[[], None]]:
    """The flags of `partoken evaluate`, as a function that tyro reads."""

    def evaluate(
        run_dir: Annotated[Positional[Path], arg(help="Directory of the run.", metavar="RUN_DIR")],
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
                help="Weights to evaluate: those of the epoch with the highest accuracy in validation "
                '("best"), or those of the last epoch ("last").'
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
        """Evaluate a checkpoint of a run and write RUN_DIR/evaluation_<split>.json."""
        return partial(_evaluate, run_dir, split, checkpoint, data)

    return evaluate


def _evaluate(run_dir: Path, split: Split, checkpoint: Checkpoint, data: Path | None) -> None:
    # Before JAX is imported, which takes long.
    check_checkpoint(run_dir, checkpoint)
    check_input(data)

    from partoken_jax.training.compilation_cache import use_compilation_cache
    from partoken_jax.training.evaluate import evaluate, write_evaluation
    from partoken_jax.training.report import clustering_summary, scores_table

    use_compilation_cache()
    report = evaluate(run_dir, split=split, checkpoint=checkpoint, data=None if data is None else str(data))
    print(f"{run_dir}: {checkpoint} checkpoint (epoch {report['epoch']}) on {report['data']}, {split}")
    if report["cropped"]:
        print(f"{len(report['cropped'])} proteins cropped: {', '.join(report['cropped'][:10])}")
    print(scores_table(report["scores"]))
    if (clusters := report["scores"]["clustering"]) is not None:
        print(clustering_summary(clusters))
    sys.stdout.flush()
    try:
        write_evaluation(report)
    except OSError as error:
        print(
            f"warning: {error.filename}: cannot be written ({error.strerror}), so the result is only printed",
            file=sys.stderr,
        )
