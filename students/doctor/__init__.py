"""Is this machine fit to train? What `kd doctor` looks at."""
