"""What training data is worth: everything that can be found in a file before money is spent on it.

Knows no rows, no stores, no HTTP, and no model but its tokenizer.
"""
