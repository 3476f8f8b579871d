"""Files of a run: atomic writes, locks, checkpoints, part files, models as plain data, removal of secrets."""
