"""Other libraries' k-NN, by pdepth: one module a library, with that library's names and calls."""
