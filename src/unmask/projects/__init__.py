"""Name tables of source projects: what their checkpoints call the parts of our networks."""
