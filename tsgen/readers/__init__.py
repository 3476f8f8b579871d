"""Readers of files: CSV, Parquet, netCDF, HDF5 and one published pickle, and downloads."""
