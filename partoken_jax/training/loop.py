"""A whole run: data, two stages, checkpoints, evaluation on the test proteins, report."""

import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx

from partoken_jax.config import ConfigError, TrainConfig, save_yaml, to_dict
from partoken_jax.models import parameter_table
from partoken_jax.training.checkpoints import (
    CheckpointError,
    CheckpointMeta,
    Score,
    check_resumable,
    check_run_dir,
    clear_run_dir,
    restore,
    save,
)
from partoken_jax.training.data import RunData, describe, load_run_data
from partoken_jax.training.epochs import Evaluation, predict, score, train_epoch
from partoken_jax.training.prefetch import prefetch
from partoken_jax.training.records import EpochRecord, append_record, read_records, rewind_records
from partoken_jax.training.report import (
    DataReport,
    RunReport,
    accuracy_with_interval,
    classification_table,
    clustering_summary,
    environment,
    timing,
    write_report,
)
from partoken_jax.training.schedules import epoch_settings
from partoken_jax.training.stages import (
    begin_stage,
    cluster_samples,
    has_codebook,
    initialise_codebook,
    reseed_codebook,
    stage_of,
)
from partoken_jax.training.step import (
    EvalStep,
    TrainState,
    TrainStep,
    compilations,
    initial_state,
    make_eval_step,
    make_train_step,
)


class Program(NamedTuple):
    """The compiled steps of a run. Without a codebook both stages run the same program."""

    graphdef: nnx.GraphDef
    train: dict[bool, TrainStep]
    """By whether the codebook is bypassed."""
    evaluate: dict[bool, EvalStep]


def train(config: TrainConfig, *, quiet: bool = False) -> RunReport:
    """Trains and evaluates as `config` says and leaves everything in its run directory:

    config.yaml, metrics.jsonl (`records.EpochRecord` per epoch), checkpoints/best and /last,
    report.json (`report.RunReport`), report.md and curves.png.

    `config.model.num_classes` gives way to the number of classes of the data. With `config.resume` the
    run goes on after its last whole epoch, to the same losses as without the interruption.

    Raises CheckpointError (run directory taken, or nothing to resume), DataError, ConfigError, or
    TrainingError when the loss is not finite.
    """
    say = (lambda line: None) if quiet else print
    run_dir = check_run_dir(config)
    num_epochs = config.stage0.epochs + config.stage1.epochs
    if num_epochs == 0:
        raise ConfigError("stage0.epochs and stage1.epochs are both 0, but a run needs at least one epoch")
    restored = None
    if config.resume:
        restored = restore(run_dir, "last")
        check_resumable(config, restored.config)
    data = load_run_data(config)
    model = dataclasses.replace(config.model, num_classes=len(data.class_names))
    config = dataclasses.replace(config, model=model, overwrite=False, resume=False)
    for line in describe(data):
        say(line)

    if restored is None:
        clear_run_dir(run_dir)
        save_yaml(config, run_dir / "config.yaml")
        graphdef, state = initial_state(config)
        done, best = 0, None
    else:
        if tuple(restored.meta["class_names"]) != data.class_names:
            raise CheckpointError(
                f"{run_dir} was started with classes {restored.meta['class_names']}, but the data have "
                f"{list(data.class_names)}; resume with the same data"
            )
        graphdef, state = restored.graphdef, restored.state
        done, best = restored.meta["epoch"], restored.meta["best"]
        say(f"{run_dir}: going on after epoch {done} of {num_epochs}")
    log = run_dir / "metrics.jsonl"
    rewind_records(log, done)
    parameters = dict(parameter_table(nnx.merge(graphdef, state.params, state.codebook, copy=True)))
    say(f"{config.model.kind}: {parameters['total']:,} parameters")

    program = Program(
        graphdef,
        {bypass: make_train_step(graphdef, bypass_codebook=bypass) for bypass in (True, False)},
        {bypass: make_eval_step(graphdef, bypass_codebook=bypass) for bypass in (True, False)},
    )
    for epoch in range(done, num_epochs):
        stage, epoch_of_stage = stage_of(config, epoch)
        if epoch_of_stage == 0:
            state = begin_stage(state)
            if stage == 1 and has_codebook(config):
                samples = _samples(program.evaluate[True], state, data, config, epoch)
                state = initialise_codebook(graphdef, state, samples, config.seed)
                best = None  # earlier checkpoints have no codebook
                say(f"stage 1: codebook of {config.model.codebook.size} codes from {len(samples)} clusters")
        state, record = _epoch(program, state, data, config, epoch, quiet)
        scores = record["validation"]["classification"]
        reached = Score(epoch=epoch + 1, accuracy=scores["accuracy"], macro_f1=scores["macro_f1"])
        improved = best is None or _rank(reached) > _rank(best)
        if best is None or improved:  # said twice for the type checker
            best = reached
        meta = CheckpointMeta(
            config=to_dict(config),
            class_names=list(data.class_names),
            epoch=epoch + 1,
            stage=stage,
            bypass_codebook=_bypass(config, epoch),
            temperature=record["temperature"],
            num_parameters=parameters["total"],
            validation=dict(record["validation"]),
            best=best,
        )
        append_record(log, record)
        if improved:
            save(run_dir, "best", state, meta)
        save(run_dir, "last", state, meta)
        say(_line(record, num_epochs, improved))

    report = _final_report(run_dir, program, data, config, parameters)
    say(f"\ntest, best checkpoint (epoch {report['best_epoch']}):")
    say(classification_table(report["test"]["classification"]))
    if (clusters := report["test"]["clustering"]) is not None:
        say(clustering_summary(clusters))
    say(f"{report['step_ms']:.0f} ms per step, {report['proteins_per_second']:.1f} proteins/s; see {run_dir}")
    return report


def _bypass(config: TrainConfig, epoch: int) -> bool:
    return stage_of(config, epoch)[0] == 0 or not has_codebook(config)


def _rank(score: Score) -> tuple[float, float]:
    return score["accuracy"], score["macro_f1"]


def _samples(step: EvalStep, state: TrainState, data: RunData, config: TrainConfig, epoch: int) -> np.ndarray:
    return cluster_samples(
        step,
        state,
        prefetch(data.loaders["train"].epoch(epoch)),
        temperature=config.temperature.at(epoch),
        max_batches=config.kmeans_batches,
    )


def _epoch(
    program: Program, state: TrainState, data: RunData, config: TrainConfig, epoch: int, quiet: bool
) -> tuple[TrainState, EpochRecord]:
    """Trains for one epoch, then validates."""
    stage, epoch_of_stage = stage_of(config, epoch)
    bypass = _bypass(config, epoch)
    loader = data.loaders["train"]
    settings = epoch_settings(
        config, stage, epoch_of_stage, loader.num_batches(epoch), has_codebook=has_codebook(config)
    )
    trained = train_epoch(
        program.train[bypass],
        state,
        prefetch(loader.epoch(epoch)),
        settings,
        num_proteins=len(data.datasets["train"]),
        description=f"stage {stage}, epoch {epoch + 1}",
        quiet=quiet,
    )
    state, last = trained.state, settings[-1]
    reseeded = 0
    if config.reseed_dead_codes and not bypass and not last.frozen:
        samples = _samples(program.evaluate[bypass], state, data, config, epoch)
        state, reseeded = reseed_codebook(program.graphdef, state, samples, config.seed, epoch)
    start = time.perf_counter()
    predictions = predict(
        program.evaluate[bypass],
        state.params,
        state.codebook,
        prefetch(data.loaders["val"].evaluation()),
        float(last.temperature),
    )
    return state, EpochRecord(
        epoch=epoch + 1,
        stage=stage,
        learning_rate=float(last.learning_rate),
        temperature=float(last.temperature),
        weight_vq=float(last.weights.vq),
        weight_coverage=float(last.weights.coverage),
        weight_cardinality=float(last.weights.cardinality),
        codebook_frozen=bool(last.frozen) and not bypass,
        codes_reseeded=reseeded,
        train=trained.scores,
        validation=score(predictions, data.class_names),
        step_losses=trained.step_losses,
        seconds=trained.seconds,
        input_seconds=trained.input_seconds,
        validation_seconds=time.perf_counter() - start,
        step_ms=1e3 * trained.step_seconds,
        proteins_per_second=len(data.datasets["train"]) / trained.seconds,
        compilations=compilations(program.train[bypass]),
    )


def _final_report(
    run_dir: Path, program: Program, data: RunData, config: TrainConfig, parameters: dict[str, int]
) -> RunReport:
    """Evaluates the best checkpoint on the test proteins and writes the report."""
    best = restore(run_dir, "best")
    predictions = predict(
        program.evaluate[best.meta["bypass_codebook"]],
        best.state.params,
        best.state.codebook,
        prefetch(data.loaders["test"].evaluation()),
        best.meta["temperature"],
    )
    records = read_records(run_dir / "metrics.jsonl")
    validation: Evaluation = best.meta["validation"]  # type: ignore[assignment]
    train_set = data.datasets["train"]
    times = timing(records)
    report = RunReport(
        run_dir=str(run_dir),
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
        best_epoch=best.meta["epoch"],
        validation=validation,
        test=score(predictions, data.class_names),
        seconds=times["seconds"],
        step_ms=times["step_ms"],
        proteins_per_second=times["proteins_per_second"],
        environment=environment(),
    )
    write_report(run_dir, report, records)
    return report


def _line(record: EpochRecord, num_epochs: int, improved: bool) -> str:
    scores, clusters = record["validation"]["classification"], record["validation"]["clustering"]
    line = (
        f"epoch {record['epoch']:3}/{num_epochs} stage {record['stage']}  "
        f"loss {record['train']['loss']:.3f}  validation: "
        f"accuracy {accuracy_with_interval(scores)} macro-F1 {scores['macro_f1']:.3f}"
    )
    if clusters is not None:
        line += f" coverage {clusters['coverage']:.2f}"
        if clusters["codes_used"]:
            line += f" codes {clusters['codes_used']}"
    line += f"  {record['proteins_per_second']:.1f} proteins/s"
    return line + ("  *" if improved else "")
