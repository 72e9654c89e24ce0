"""Images on disk, what is cut out of them, and the batches of a training run."""
