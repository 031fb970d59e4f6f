"""Real third-party clients, unmodified, against a running stack: `make clients`. Not part of `make test`."""
