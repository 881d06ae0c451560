"""Files that are whole or not there, locked while written, checked when read: checkpoints, kept trainings, arrays."""
