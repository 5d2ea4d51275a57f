"""The ``kd`` command: a file for each of its commands. The only room that puts data, teachers and students together."""
