"""Teachers, one source a file: they answer a batch with outputs, without gradient, in the data set's order of classes."""

from teachers.teacher import Teacher

__all__ = ["Teacher"]
