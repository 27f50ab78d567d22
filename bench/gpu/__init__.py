"""What a GPU has to show: equality first, then times."""
