"""The command line, ``tsgen COMMAND``."""
