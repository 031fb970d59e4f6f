"""The door: the OpenAI-compatible HTTP API. Thin; speaks only to `rootstock`; no torch, boto3, rq or vllm code."""
