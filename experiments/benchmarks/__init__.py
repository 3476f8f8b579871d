"""Benchmarks; ``python -m experiments.benchmarks.NAME --help`` says what each one measures."""

import os

# idle OpenMP threads must not take a core from other work; torch reads this when it is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
