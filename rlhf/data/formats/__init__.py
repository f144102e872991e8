"""The types of files that people bring, read as records: JSON, CSV, Parquet, Arrow, compressed or not."""
