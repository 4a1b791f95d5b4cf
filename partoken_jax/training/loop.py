"""A whole run: data, two stages, checkpoints, evaluation on the test proteins, report."""

import contextlib
import dataclasses
import itertools
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from partoken_jax.config import TrainConfig, save_yaml
from partoken_jax.parameters import parameter_table
from partoken_jax.progress import say
from partoken_jax.proteins import ProteinDataset
from partoken_jax.training.checkpoints import (
    CheckpointWriter,
    Score,
    better,
    restore,
)
from partoken_jax.training.cluster_start import start_clusters, start_program, starts_from_data
from partoken_jax.training.data import Split, describe, load_data, prepare
from partoken_jax.training.devices import (
    StopTogether,
    check_platform,
    data_mesh,
    is_first_process,
    num_shards,
    replicate,
    wait_for_all,
)
from partoken_jax.training.epochs import (
    OnResult,
    TrainEpoch,
    check_finite,
    nothing_yet,
    predict,
    train_epoch,
)
from partoken_jax.training.epochs import score as scores_of
from partoken_jax.training.events import EventLog
from partoken_jax.training.final_report import final_report
from partoken_jax.training.guard import non_finite_step
from partoken_jax.training.initial_weights import InitialWeights, initial_weights
from partoken_jax.training.interruption import Interrupted, until
from partoken_jax.training.records import EpochRecord, append_record, read_records, rewind_records
from partoken_jax.training.report import (
    RunReport,
    clustering_summary,
    epoch_line,
    scores_table,
    speed,
)
from partoken_jax.training.run import (
    Run,
    bypass_codebook,
    make_program,
    meta_of,
    place,
    restored_run,
    save,
    saving,
    settings_of,
    summarised,
)
from partoken_jax.training.run_directory import (
    CheckpointError,
    check_run_dir,
    clear_run_dir,
    has_checkpoint,
    locked,
    with_absolute_paths,
)
from partoken_jax.training.schedules import StepSettings
from partoken_jax.training.stages import (
    begin_stage,
    cluster_samples,
    has_codebook,
    initialise_codebook,
    renew_codebook,
    stage_of,
)
from partoken_jax.training.state import TrainState, initial_state
from partoken_jax.training.step import EvalStep, StepMetrics, compilations
from partoken_jax.training.tuned_forms import forms_line, measured_target


def train(
    config: TrainConfig,
    *,
    quiet: bool = False,
    stop: threading.Event | None = None,
    datasets: Mapping[Split, ProteinDataset] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    command: str | None = None,
) -> RunReport:
    """Trains and evaluates as `config` says and leaves everything in its run directory:

    config.yaml, metrics.jsonl (`records.EpochRecord` per epoch), tensorboard/ (`events.EventLog`),
    checkpoints/best and /last, summary.json (`summary.Summary`), report.json (`report.RunReport`), report.md
    and curves.png.

    `config.model.num_classes` gives way to the number of classes of the data. With `config.resume` the
    run goes on from its newest checkpoint, also within an epoch, to the same losses as without the
    interruption; where there is no checkpoint yet, it starts.

    Args:
      config: the settings.
      quiet: say nothing but warnings.
      stop: set it, from another thread or a signal, to stop the run after the step it is at.
      datasets: the whole splits that `config.data` stands for, where they have been read already.
      weights: what `config.init_from` stands for where that is a file (`pretrained.model_arrays`,
        `convert.read_initial_weights`): arrays by the dotted names of our parameters.
      command: the command line that this call stands for, for the reports.

    Raises CheckpointError (run directory taken, or nothing in it can be read), DataError, ConfigError,
    TrainingError when the loss is not finite, or Interrupted after `stop` was set and the state saved.
    """
    date = datetime.now(UTC).isoformat(timespec="seconds")
    config = with_absolute_paths(config)
    run_dir = check_run_dir(config)
    check_platform(config.model.message_passing)
    mesh = data_mesh(config.devices)
    if jax.process_count() > 1:
        stop = StopTogether(stop)
    quiet = quiet or not is_first_process()
    data = prepare(config, load_data(config.data) if datasets is None else datasets, num_shards(mesh))
    model = dataclasses.replace(config.model, num_classes=len(data.class_names))
    going_on, replaces = config.resume and has_checkpoint(run_dir), config.overwrite
    config = dataclasses.replace(config, model=model, overwrite=False, resume=False)
    for line in describe(data):
        say(line, quiet=quiet)
    # Before anything in the directory changes: whatever is wrong with the settings is found out here.
    started = None
    if not going_on:
        graphdef, state = initial_state(config)
        started = InitialWeights(state, [], encoder_alone=True)
        if config.init_from is not None:
            started = initial_weights(config.init_from, state, weights, config)

    if stop is not None and stop.is_set():
        raise Interrupted(before_the_first_step(run_dir))
    wait_for_all("before the run directory changes")
    with locked(run_dir) if is_first_process() else contextlib.nullcontext():
        if started is not None and not replaces and is_first_process() and has_checkpoint(run_dir):
            raise CheckpointError(
                f"{run_dir}: another process has worked there meanwhile; give the command again with --resume"
            )
        if started is None:
            found = restored_run(config, data)
            graphdef, state = found.graphdef, found.state
        else:
            found = None
            state = started.state
            if is_first_process():
                clear_run_dir(run_dir)
                save_yaml(config, run_dir / "config.yaml")
            for line in started.lines:
                say(line, quiet=quiet)
        parameters = dict(parameter_table(nnx.merge(graphdef, state.params, state.codebook, copy=True)))
        target = measured_target(mesh)
        program = make_program(config, graphdef, mesh, target, quiet=quiet)
        state = replicate(state, mesh)
        run = Run(config, data, program, parameters, stop, quiet, command, date, mesh, state)
        run.clusters_start = started is not None and started.encoder_alone and starts_from_data(config)
        if found is not None:
            place(run, found)
        still = sum(x.size for x in jax.tree.leaves(state.params["encoder"])) if config.freeze_encoder else 0
        learn = f", of which {parameters['total'] - still:,} learn" if still else ""
        run.say(f"{config.model.kind}: {parameters['total']:,} parameters{learn}")
        counts = data.loaders["train"].plan.node_counts
        if forms := forms_line(config.model, target, counts, config.data.neighbours):
            run.say(forms)
        wait_for_all("everybody has read what there was")
        keep = config.checkpoint
        with CheckpointWriter(run_dir, keep_best=keep.keep_best, keep_every=keep.keep_every) as writer:
            if found is not None:
                writer.forget_after(found)
                if not has_checkpoint(run_dir, "best"):
                    run.best = None  # it was one of an epoch that is done again
            if is_first_process():
                rewind_records(run_dir / "metrics.jsonl", run.epoch)
                run.events = EventLog(run_dir, int(run.state.step))
                summarised(run, "running")
            return _to_the_end(run, writer)


def before_the_first_step(run_dir: Path) -> str:
    """What is said of a run that is stopped where there is nothing to save yet."""
    return f"{run_dir}: stopped before the first step; the same command with --resume goes on"


def _to_the_end(run: Run, writer: CheckpointWriter) -> RunReport:
    """The epochs that are left, and the report. Raises Interrupted after a stop, with the state saved."""
    report = None
    try:
        while run.epoch < run.num_epochs:
            _epoch(run, writer)
        writer.wait()
        wait_for_all("the last checkpoint is written")
        report = _finish(run)
    except Interrupted:
        if run.unsaved:
            save(run, writer)
        writer.wait()
        if not run.epoch and not run.so_far["steps"]:
            raise Interrupted(before_the_first_step(run.run_dir)) from None
        raise Interrupted(
            f"{run.run_dir}: stopped {run.where()}, and saved; the same command with --resume goes on from "
            "there"
            if writer.up_to_date
            else f"{run.run_dir}: stopped {run.where()}, but could not save; the same command with --resume "
            "goes on from the checkpoint before"
        ) from None
    finally:
        if run.events is not None:
            run.events.close()
        if report is None:
            summarised(run, "stopped")
    return report


def _epoch(run: Run, writer: CheckpointWriter) -> None:
    """Trains for an epoch, or for the rest of one, validates, and saves."""
    config, data, epoch = run.config, run.data, run.epoch
    stage, epoch_of_stage = stage_of(config, epoch)
    bypass = bypass_codebook(config, epoch)
    if epoch_of_stage == 0 and not run.so_far["steps"]:
        _begin_stage(run, stage)
    loader = data.loaders["train"]
    settings = settings_of(config, data, epoch)
    description = f"stage {stage}, epoch {epoch + 1}"
    trained = train_epoch(
        run.program.train[bypass],
        run.state,
        run.training_batches(first=len(run.so_far["steps"])),
        settings,
        num_proteins=len(data.datasets["train"]),
        description=description,
        quiet=run.quiet,
        so_far=run.so_far,
        after_step=saving(run, writer),
        on_result=_events(run),
        non_finite=partial(
            non_finite_step,
            config=config,
            graphdef=run.program.graphdef,
            bypass_codebook=bypass,
            description=description,
            num_steps=len(settings),
            name_of=lambda number: data.datasets["train"][number].name,
            whole_batch=None if run.mesh is None else partial(loader.whole_batch, epoch),
        ),
    )
    run.state, run.so_far = trained.state, trained.so_far
    # From here on another state, until the epoch is over: a checkpoint in between is one before all of this.
    state, last = run.state, settings[-1]
    reseeded = 0
    dead_share = config.dead_code_share if config.reseed_dead_codes else None
    follows = dead_share is not None or config.model.codebook.dimension is not None
    if follows and not bypass and not last.frozen:
        samples = _samples(run, run.program.evaluate[bypass], state)
        state, reseeded = renew_codebook(
            run.program.graphdef, state, samples, config.seed, epoch, run.mesh, dead_share=dead_share
        )
    record = _record(run, trained, state, last, stage, reseeded)
    run.state, run.epoch, run.so_far = state, epoch + 1, nothing_yet()
    run.validation = dict(record["validation"])
    found = record["validation"]["classification"]
    reached = Score(epoch=run.epoch, accuracy=found["accuracy"], macro_f1=found["macro_f1"])
    before, improved = run.best, better(reached, run.best)
    if improved:
        run.best = reached
    if is_first_process():
        append_record(run.run_dir / "metrics.jsonl", record)
    if improved:
        writer.save("best", run.state, meta_of(run))
        writer.wait()  # as the next save does anyway
        if not writer.has_best(run.epoch):
            improved = False
            run.best = before  # a later epoch has to beat what is on the disk, not what was lost
    save(run, writer)
    summarised(run, "running")
    run.say(epoch_line(record, run.num_epochs, improved))


def _events(run: Run) -> OnResult:
    """What every step of the rest of an epoch adds to the events for TensorBoard."""
    steps = itertools.count(int(run.state.step) + 1)

    def on_result(metrics: StepMetrics, settings: StepSettings) -> None:
        if run.events is not None:
            run.events.step(next(steps), metrics, settings)

    return on_result


def _begin_stage(run: Run, stage: int) -> None:
    goes_on = run.config.one_schedule and run.epoch > 0
    state = run.state if goes_on else begin_stage(run.state, run.mesh)
    if run.clusters_start and run.epoch == 0:
        program = start_program(run.program.graphdef, run.mesh)
        batches = until(run.stop, run.training_batches())
        state, line = start_clusters(run.config, program, state, batches, run.mesh)
        run.say(line)
    if stage == 1 and has_codebook(run.config):
        samples = _samples(run, run.program.evaluate[True], state)
        state = initialise_codebook(run.program.graphdef, state, samples, run.config.seed, run.mesh)
        run.best = None  # earlier checkpoints have no codebook
        run.say(
            f"stage 1: codebook of {run.config.model.codebook.size} codes from {len(samples)} clusters; the "
            "best epoch is chosen anew"
        )
    run.state = state


def _samples(run: Run, step: EvalStep, state: TrainState) -> np.ndarray:
    return cluster_samples(
        step,
        state,
        until(run.stop, run.training_batches()),
        temperature=run.config.temperature.at(run.epoch),
        max_batches=run.config.kmeans_batches,
    )


def _record(
    run: Run, trained: TrainEpoch, state: TrainState, last: StepSettings, stage: int, reseeded: int
) -> EpochRecord:
    """Validates, and puts together the line of metrics.jsonl."""
    data, bypass = run.data, bypass_codebook(run.config, run.epoch)
    start = time.perf_counter()
    predictions = predict(
        run.program.evaluate[bypass],
        state.params,
        state.codebook,
        run.evaluation_batches("val"),
        float(last.temperature),
    )
    check_finite(predictions, data.datasets["val"])
    record = EpochRecord(
        epoch=run.epoch + 1,
        stage=stage,
        learning_rate=float(last.learning_rate),
        temperature=float(last.temperature),
        weight_vq=float(last.weights.vq),
        weight_coverage=float(last.weights.coverage),
        weight_cardinality=float(last.weights.cardinality),
        codebook_frozen=bool(last.frozen) and not bypass,
        codes_reseeded=reseeded,
        train=trained.scores,
        validation=scores_of(predictions, data.class_names),
        skipped_steps=trained.step_losses.count(None),
        step_losses=trained.step_losses,
        seconds=trained.so_far["seconds"],
        input_seconds=trained.so_far["input_seconds"],
        validation_seconds=time.perf_counter() - start,
        step_ms=1e3 * trained.step_seconds,
        steps_timed=trained.steps_timed,
        proteins_per_second=len(data.datasets["train"]) / len(trained.step_losses) * trained.steps_per_second,
        compilations=compilations(run.program.train[bypass]),
    )
    if run.events is not None:
        run.events.epoch(int(state.step), record, predictions, run.config.model.codebook.size)
    return record


def _finish(run: Run) -> RunReport:
    best = restore(run.run_dir, "best")
    predictions = predict(
        run.program.evaluate[best.meta["bypass_codebook"]],
        *replicate((best.state.params, best.state.codebook), run.mesh),
        run.evaluation_batches("test"),
        best.meta["temperature"],
    )
    check_finite(predictions, run.data.datasets["test"])
    report = final_report(
        run.run_dir,
        run.config,
        run.data,
        run.parameters,
        best.meta,
        predictions,
        command=run.command,
        date=run.date,
    )
    summarised(run, "finished", report["test"])
    run.say(f"\ntest, best checkpoint (epoch {report['best_epoch']}):")
    run.say(scores_table(report["test"]))
    if (clusters := report["test"]["clustering"]) is not None:
        run.say(clustering_summary(clusters))
    run.say(f"{speed(report, read_records(run.run_dir / 'metrics.jsonl'))}; see {run.run_dir}")
    return report
