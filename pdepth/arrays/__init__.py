"""Rows of numbers, and what is asked of them: the arguments of every call, checked."""
