"""A teacher's soft labels on disk: asked once, read in every step."""
