"""Measures on the small base what people say of fine-tuning, and what our release gate does about it."""
