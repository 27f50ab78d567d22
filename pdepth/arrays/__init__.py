"""Rows of numbers, and what is asked of them: the arguments of every call, checked."""

from pdepth.optional import check_oldest

check_oldest("numpy", "1.26")
