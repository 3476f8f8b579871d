"""Experiments with tsgen: configurations, benchmarks, and the figures of the documentation.

This package is not installed. Run it from the root of a clone: ``tsgen fit --config aqi36`` finds the files
in ``configs/``, and ``python -m experiments.benchmarks.NAME`` runs a benchmark. ``README.md`` lists what was
measured.
"""
