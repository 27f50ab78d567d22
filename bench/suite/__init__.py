"""The benchmark suite, `pdepth bench`.

shapes.py    sizes, and the rows that fill them
engines.py   pdepth, its peers, and the ceilings; a subclass adds another
measure.py   one pytest item a shape: gate, first calls, interleaved rounds
results.py   stored results by shape and engine
render.py    tables, and what is published
picture.py   the picture
check.py     the reference set, and whether an implementation agrees with it
"""
