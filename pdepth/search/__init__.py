"""Probes from the last to the first, and the rows of one probe in chunks."""
