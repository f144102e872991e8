"""Rows: what people bring, what passes between stages, and how both are read and written."""
