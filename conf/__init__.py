"""The configurations of runs; they ship with the package as data."""
