"""Building blocks of the adapters."""
