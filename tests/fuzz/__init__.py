"""Mutated files for every reader; `python -m tests.fuzz` is the long run, `tests/test_fuzz.py` the short one."""
