"""Running the points of a sweep as processes on this machine."""
