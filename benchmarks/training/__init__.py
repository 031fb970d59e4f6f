"""The training benchmark: the engine beside TRL and HF Trainer on the same rows (`make bench-train`)."""
