"""Flipping the switch under load: the soak, its account, and the benchmark's processes."""
