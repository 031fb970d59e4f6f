"""The subject of Rootstock: files, jobs, models, where they are kept and how they may change.

Shared by the three processes (service, trainer, serving). Knows nothing about HTTP, GPUs or vLLM.
"""

__version__ = "0.1.0"
