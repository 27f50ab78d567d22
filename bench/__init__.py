"""Benchmarks, installed as `pdepth.bench`; README.md says how to run each.

common.py   paths of the checkout, and what is recorded of a machine
data.py     CIFAR-10 and its trained network, where they are
gate.py     votes against the definition's
pages.py    stored results, and tables on pages
peak.py     the peak memory of a process
suite/      `pdepth bench`: shapes, engines, measurements, tables
cases/      what people do with a search, beside the libraries they would do it with
gpu/        the Triton backend on a GPU, its limits and peers
studies/    one question a script
reference/  a fixed case that any implementation can check itself against
results/    what was measured
"""
