"""Benchmarks: what is measured by `make bench-*`. No tests: they take minutes, and a busy machine spoils them."""
