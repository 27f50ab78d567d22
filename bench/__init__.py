"""The benchmark suite, `pdepth bench`; installed as `pdepth.bench`.

gpu.py       the GPU engine, its limits and peers, where there is a GPU
shapes.py    what is asked: sizes, and where their rows come from
engines.py   who is asked: pdepth, its peers, and the ceilings; a subclass adds another
measure.py   one pytest item a shape: gate, interleaved rounds, first call, memory
render.py    README's tables and the picture, from the stored results alone
check.py     the reference set of reference/, and whether an implementation agrees with it
cifar10.py   one whole job on real data
compat.py    other libraries' own calls beside those of pdepth.compat
libraries.py the tests of pdepth.compat beside the real libraries, in their own environments
results/     what was measured, as pytest-benchmark stores it
"""
