"""What things cost on this machine, as ratios."""
