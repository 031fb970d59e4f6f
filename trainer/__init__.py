"""The work: turns a recipe, a base model and a training file into a LoRA adapter.

Knows nothing about HTTP or vLLM; only `worker` and `__main__` know databases, queues and stores.
"""
