"""From a model and its data to one embedding matrix per probe: all of it needs torch."""

from pdepth.optional import require

require("torch", "A network", "torch")
