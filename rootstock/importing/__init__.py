"""Bringing a team over from OpenAI: its API -> a folder -> our API. Knows both only by the wire they share."""
