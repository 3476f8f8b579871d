"""Files that survive interruptions: atomic writes, locks, checkpoints, parts, and what they may hold."""
