"""Files: written whole or not at all, journals of runs, stores of embeddings."""
