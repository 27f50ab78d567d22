"""Results for people: pictures and the terminal's tables."""
