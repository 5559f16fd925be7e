"""The migrations, one file per step; each is described by the first line of its docstring."""
