"""The outlet: vLLM with our adapter plugin beside it. Knows adapters and their store, no jobs, users or database."""
