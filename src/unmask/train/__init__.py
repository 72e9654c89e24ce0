"""Training: the loop, its runs and checkpoints, and the batches that it reads."""
