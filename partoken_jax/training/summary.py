"""RUN_DIR/summary.json: what a run came to, short and flat, for scripts that compare many runs.

It is there from the start of training on, and always whole.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

from partoken_jax.config import TrainConfig
from partoken_jax.files import write_whole
from partoken_jax.training.data import RunData
from partoken_jax.training.epochs import Evaluation
from partoken_jax.training.metrics import hits, wilson
from partoken_jax.training.records import EpochRecord
from partoken_jax.training.report import environment, timing

FILE = "summary.json"
"""In the directory of a run."""

State = Literal["running", "stopped", "finished"]


class Scores(TypedDict):
    """The scores of a split with the best checkpoint."""

    proteins: int
    """n: proteins with a label, which are those that are scored."""
    correct: int
    """Of these, given their own class; in pretraining, residues given their type."""
    accuracy: float
    """correct / proteins; in pretraining the recovery, correct / residues."""
    accuracy_low: float
    """Lower end of its 95% interval (Wilson's; in pretraining of a bootstrap over proteins)."""
    accuracy_high: float
    """Upper end of that interval."""
    macro_f1: float
    """Mean F1 over the classes that occur."""
    cross_entropy: float
    """Mean over the scored proteins, in nats."""
    codes_used: int | None
    """Different codes among all clusters; null for the GVP baseline, as what follows."""
    codes_used_share: float | None
    """codes_used / the codebook's size; null also in runs of before, as the next."""
    perplexity_share: float | None
    """exp of the entropy of the codes of all clusters / the codebook's size."""
    clusters_per_protein: float | None
    coverage: float | None
    """Share of residues in a cluster."""


class PretrainingScores(Scores):
    """The scores of a split in pretraining."""

    residues: int
    """Of those proteins, with all types hidden."""
    perplexity: float
    """exp of the cross entropy."""


class Summary(TypedDict):
    """summary.json. What is not known yet is null."""

    state: State
    """"running" while a process works on the run, and after one that was killed; "stopped" after a signal or
    an error; "finished" when the report is written."""
    command: str | None
    """The command line that started the process; null for a call from Python."""
    date: str
    """When that process started: UTC, as ISO 8601 writes it."""
    model: str
    """"gvp", "partoken" or "residues"."""
    seed: int
    parameters: int
    """Trainable numbers."""
    task: str
    data: str
    """File or folder that the proteins come from."""
    fingerprint: str
    """Of the data."""
    environment: dict[str, str]
    """Versions of Python and of the packages that compute, and the device."""
    epochs: int
    """Epochs done, over both stages."""
    epochs_planned: int
    seconds: float
    """Training and validation of the epochs done, in all processes that worked on the run; compilation
    included."""
    step_ms: float | None
    """Median over epochs of the median step, without compilation where there is such a step."""
    proteins_per_second: float | None
    """Training proteins; median over the same epochs."""
    best_epoch: int | None
    """Epoch of the best checkpoint, from 1."""
    validation: Scores | None
    test: Scores | None
    """Null until the run is finished."""


def scores(evaluation: Evaluation) -> Scores:
    """The scores of a split without what belongs to single classes."""
    found, clusters = evaluation["classification"], evaluation["clustering"]
    low, high = wilson(hits(found), found["proteins"])
    flat = Scores(
        proteins=found["proteins"],
        correct=hits(found),
        accuracy=found["accuracy"],
        accuracy_low=low,
        accuracy_high=high,
        macro_f1=found["macro_f1"],
        cross_entropy=evaluation["cross_entropy"],
        codes_used=None if clusters is None else clusters["codes_used"],
        codes_used_share=None if clusters is None else clusters.get("codes_used_share"),
        perplexity_share=None if clusters is None else clusters.get("perplexity_share"),
        clusters_per_protein=None if clusters is None else clusters["clusters_per_protein"],
        coverage=None if clusters is None else clusters["coverage"],
    )
    if not (recovery := evaluation.get("recovery")):
        return flat
    told = recovery[0]
    flat["proteins"] = told["proteins"]
    flat["accuracy_low"], flat["accuracy_high"] = told["recovery_low"], told["recovery_high"]
    return PretrainingScores(**flat, residues=told["residues"], perplexity=told["perplexity"])


def summarise(
    config: TrainConfig,
    data: RunData,
    records: Sequence[EpochRecord],
    *,
    state: State,
    command: str | None,
    date: str,
    parameters: int,
    best_epoch: int | None = None,
    test: Evaluation | None = None,
) -> Summary:
    """The summary of a run after the epochs in `records`; the other arguments are fields of `Summary`."""
    train_set, times = data.datasets["train"], timing(records) if records else None
    best = next((record for record in records if record["epoch"] == best_epoch), None)
    return Summary(
        state=state,
        command=command,
        date=date,
        model=config.model.kind,
        seed=config.seed,
        parameters=parameters,
        task=train_set.task,
        data=Path(train_set.source).name,
        fingerprint=data.fingerprint,
        environment=environment(),
        epochs=len(records),
        epochs_planned=config.stage0.epochs + config.stage1.epochs,
        seconds=times["seconds"] if times else 0.0,
        step_ms=times["step_ms"] if times else None,
        proteins_per_second=times["proteins_per_second"] if times else None,
        best_epoch=best_epoch,
        validation=scores(best["validation"]) if best else None,
        test=scores(test) if test else None,
    )


def write_summary(run_dir: Path, summary: Summary) -> None:
    """Writes RUN_DIR/summary.json in place of an earlier one."""
    write_whole(Path(run_dir) / FILE, json.dumps(summary, indent=2) + "\n")


def read_summary(run_dir: str | Path) -> Summary:
    """The summary of a run. Raises OSError where there is none."""
    return json.loads((Path(run_dir) / FILE).read_text())
