"""Readers of CSV, Parquet, netCDF, HDF5 and pickled graphs, and downloads of published files."""
