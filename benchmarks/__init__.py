"""Measures this package beside its peers and the physical limits; see benchmarks/README.md."""
