"""From a model and its data to one embedding matrix per probe."""
