"""Files written completely or not at all, locked while written, checked when read: checkpoints, trainings, arrays."""
