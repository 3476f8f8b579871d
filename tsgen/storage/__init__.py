"""Files that survive interruptions: atomic writes, locks, checkpoints, part files; what they may contain."""
