"""The same votes by many processes and machines, on Ray: each keeps some rows of the support.

Rows of the support do not travel to be searched. Queries go out in chunks, lists of the k nearest
rows come back to each other, and votes are counted where the lists meet; bit for bit those of one
process.
"""

from pdepth.cluster.options import Cluster

__all__ = ["Cluster"]
