"""The contract of a distillation method, which the library's own are tested by and anybody's can be."""
