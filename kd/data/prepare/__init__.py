"""Official archives, brought into the layouts that the data sets read."""
