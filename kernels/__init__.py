"""The triton backend's kernels, one and its host function a file; installed as `pdepth.kernels`.

search.py        the kernels in turn: layers and queries in, votes or neighbours out
products.py      the filter in 16 bits, for layers that share a launch
support.py       a support that is packed, and may be kept
stack.py         rows of several layers, for one launch
measure.py       a layer's largest value, a point near its rows, and hashes of them
prepare.py       rows centred, scaled and rounded to float16, and what is known of each
duplicates.py    equal rows, of which only the first can vote
filter.py        products by the matrix units, and their configurations
differences.py   |x - y|^2 in float64
bundles.py       scores that join the lists together
lists.py         each query's candidates, and the cut below which a row becomes one
bounds.py        what a score proves: pdepth.certify on the device
settle.py        from candidates to votes
rescore.py       distances in float32, with what they prove
exact.py         a distance as the definition sums it
complete.py      all distances

Beside a kernel stands a twin in plain torch, its oracle in the tests; settle's is the definition,
and bundles' are the lists that rows join one by one.
The cpu backend's kernels are C++ and live in csrc/.
"""

MOST_PROGRAMS = 65_535  # along a launch's second axis

# A kernel names in `do_not_specialize_on_alignment` what may begin at any element, as one layer's
# part of an array does: Triton would compile for the address, and again for the next layer's.
