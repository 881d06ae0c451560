"""Region classifiers against each other and against what else makes maps: how fast, how good."""
