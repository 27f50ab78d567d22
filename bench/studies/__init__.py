"""One question a script, each with its stored results."""
