"""One HTML page made of run directories: tables, charts and pictures, in a single file that needs no network."""
