"""The benchmark suite: shapes, engines, measurements, tables."""
