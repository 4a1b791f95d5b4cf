"""The report of a run that is over."""

from pathlib import Path

from partoken_jax.config import TrainConfig, to_dict
from partoken_jax.training.checkpoints import CheckpointMeta
from partoken_jax.training.data import RunData
from partoken_jax.training.devices import is_first_process
from partoken_jax.training.epochs import Evaluation, Predictions, score
from partoken_jax.training.predictions import write_predictions
from partoken_jax.training.records import read_records
from partoken_jax.training.report import DataReport, RunReport, environment, timing, write_report


def final_report(
    run_dir: Path,
    config: TrainConfig,
    data: RunData,
    parameters: dict[str, int],
    best: CheckpointMeta,
    predictions: Predictions,
    *,
    command: str | None,
    date: str,
) -> RunReport:
    """Writes the predictions of the best checkpoint for the test proteins (not in pretraining) and the report
    of them, which it returns. Of several processes the first writes."""
    records = read_records(run_dir / "metrics.jsonl")
    validation: Evaluation = best["validation"]  # type: ignore[assignment]
    train_set = data.datasets["train"]
    times = timing(records)
    report = RunReport(
        run_dir=str(run_dir),
        command=command,
        date=date,
        config=to_dict(config),
        parameters=parameters,
        data=DataReport(
            source=Path(train_set.source).name,
            task=train_set.task,
            class_names=list(data.class_names),
            class_counts={split: d.class_counts().tolist() for split, d in data.datasets.items()},
            unlabelled={split: int((d.labels < 0).sum()) for split, d in data.datasets.items()},
            cropped={split: names for split, names in data.cropped.items()},
            left_out=len(train_set.left_out),
            batch_size=data.plan.batch_size,
            node_counts=list(data.plan.node_counts),
            padding_share=data.plan.padding_share,
        ),
        best_epoch=best["epoch"],
        validation=validation,
        test=score(predictions, data.class_names),
        seconds=times["seconds"],
        step_ms=times["step_ms"],
        proteins_per_second=times["proteins_per_second"],
        environment=environment(),
    )
    if is_first_process():
        if predictions.told is None:  # pretraining gives proteins no class
            write_predictions(run_dir, predictions, data.datasets["test"], data.class_names)
        write_report(run_dir, report, records)
    return report
