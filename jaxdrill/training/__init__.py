"""Training: augmentation, loss and metrics, schedules and optimiser, the training step, programs and devices."""
