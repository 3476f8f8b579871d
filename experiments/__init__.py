"""The command line, the shipped configurations and the benchmarks."""
