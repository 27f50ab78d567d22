"""One self-contained page, and its assets."""
