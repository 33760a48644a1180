"""Benchmarks, run by `scripts/bench`. Nothing in the toolkit imports them."""
