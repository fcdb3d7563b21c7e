"""The checks of `gpu_check.py`, in the order in which they run: what is quick and matters most comes first."""
