"""Benchmarks: `python -m bench.compare` beside the peers, `python -m pytest bench` for a table."""
