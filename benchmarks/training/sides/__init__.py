"""One module per competitor. Each is a process of its own that trains on command and prints one JSON line per run."""
