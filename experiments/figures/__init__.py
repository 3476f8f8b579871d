"""The figures of the documentation, each drawn by one command."""
