"""Trains ParToken from top to bottom in one short script: the place to start from when you try an idea.

    python -m experiments.train --epochs 4 6 --train 400

`partoken train` does the same with checkpoints, resumption and a report.
"""

import dataclasses

from flax import nnx

from experiments.flags import Flags, count, run_script
from partoken_jax import DataConfig, ModelConfig, StageConfig, TrainConfig, parameter_table
from partoken_jax.progress import announced, say
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.data import describe, load_run_data
from partoken_jax.training.epochs import predict, score, train_epoch
from partoken_jax.training.prefetch import prefetch
from partoken_jax.training.report import (
    accuracy_with_interval,
    classification_table,
    clustering_summary,
)
from partoken_jax.training.schedules import epoch_settings
from partoken_jax.training.stages import begin_stage, cluster_samples, initialise_codebook, stage_of
from partoken_jax.training.state import initial_state
from partoken_jax.training.step import make_eval_step, make_train_step


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--epochs", type=int, nargs=2, default=(4, 6), help="of stage 0 and stage 1")
    flags.add_argument("--train", type=count, default=400, help="proteins of each split, at most")
    flags.add_argument("--batch-size", type=count, default=16)
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()
    use_compilation_cache()  # a second start of the same run does not compile again

    # Settings. The model is the published one; what is not named here has its published value.
    config = TrainConfig(
        seed=args.seed,
        data=DataConfig(
            task="cath-class",
            batch_size=args.batch_size,
            max_shapes=1,
            max_train=args.train,
            max_eval=args.train,  # a quick trial is quick as a whole
        ),
        stage0=StageConfig(epochs=args.epochs[0], learning_rate=1e-3, warmup_epochs=1),
        stage1=StageConfig(epochs=args.epochs[1], learning_rate=5e-4, warmup_epochs=1),
        freeze_codebook_epochs=1,
    )

    # Proteins → neighbour tables → a plan of all batches of the run.
    data = load_run_data(config)
    for line in describe(data):
        say(line)
    train, validation, test = (data.loaders[split] for split in ("train", "val", "test"))
    config = dataclasses.replace(config, model=ModelConfig(num_classes=len(data.class_names)))

    # The model, split into structure and arrays. `state` is all that training changes.
    graphdef, state = initial_state(config)
    say(f"{dict(parameter_table(nnx.merge(graphdef, state.params, state.codebook)))['total']:,} parameters")

    # One compiled program per stage: stage 0 leaves the codebook out.
    train_steps = [
        announced(
            make_train_step(graphdef, bypass_codebook=stage == 0), f"the training step of stage {stage}"
        )
        for stage in (0, 1)
    ]
    eval_steps = [make_eval_step(graphdef, bypass_codebook=bypass) for bypass in (True, False)]

    for epoch in range(config.stage0.epochs + config.stage1.epochs):
        stage, epoch_of_stage = stage_of(config, epoch)
        temperature = config.temperature.at(epoch)
        if epoch_of_stage == 0:
            state = begin_stage(state)  # fresh Adam moments
            if stage == 1:
                samples = cluster_samples(
                    eval_steps[0], state, train.epoch(epoch), temperature=temperature, max_batches=50
                )
                state = initialise_codebook(graphdef, state, samples, config.seed)

        # Learning rate, temperature and loss weights of each step; the step does the rest:
        # features, forward pass, loss, gradients, Adam, moving averages of the codebook.
        result = train_epoch(
            train_steps[stage],
            state,
            prefetch(train.epoch(epoch)),  # packed and sent to the device ahead of the step
            epoch_settings(config, stage, epoch_of_stage, len(train), has_codebook=True),
            num_proteins=len(data.datasets["train"]),
            description=f"stage {stage}, epoch {epoch + 1}",
        )
        state = result.state

        predictions = predict(
            eval_steps[stage], state.params, state.codebook, validation.evaluation(), temperature
        )
        scores = score(predictions, data.class_names)
        say(
            f"epoch {epoch + 1:3} stage {stage}  loss {result.scores['loss']:.3f}  "
            f"validation accuracy {accuracy_with_interval(scores['classification'])} "
            f"macro-F1 {scores['classification']['macro_f1']:.3f}  "
            f"{len(data.datasets['train']) / result.so_far['seconds']:.1f} proteins/s"
        )

    predictions = predict(eval_steps[stage], state.params, state.codebook, test.evaluation(), temperature)
    scores = score(predictions, data.class_names)
    say(f"\ntest, last epoch:\n{classification_table(scores['classification'])}")
    if scores["clustering"] is not None:
        say(clustering_summary(scores["clustering"]))


if __name__ == "__main__":
    run_script(main)
