"""Counts and calibration bins per image, computed once; every score is a pure function of them."""
