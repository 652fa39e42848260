"""DuckDB results: schema, store, views, report."""
