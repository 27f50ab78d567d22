"""What people do with a search, case by case: small batches, every k, graphs, libraries' own calls.

tasks.py        rows: support, queries and k of a case
contestants.py  who answers: pdepth, libraries, the float32 product
catalogue.py    the cases
layers.py       those on real layers, from the stores of studies/networks.py
gate.py         whether answers are the definition's, and a peer's within float32's rounding
measure.py      first answers, interleaved rounds, two clocks
level.py        processes held to an instruction set, peers too
table.py        the tables of docs/cases.md
__main__.py     python bench/cases
"""
