"""What a tune is worth: measured against its base on examples it never saw, and on what it should not have forgotten.

Knows no rows, no stores, no HTTP and no torch.
"""
