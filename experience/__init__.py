"""What passes between rollout and training: prompts, trajectories, batches."""
