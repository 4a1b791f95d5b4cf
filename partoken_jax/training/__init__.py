"""Training: losses, schedules, the compiled step, stages, checkpoints, metrics."""
