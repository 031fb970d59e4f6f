"""Base upgrades: `planning` says what tuning again comes to, `stepping` takes the steps. Knows no routes."""
