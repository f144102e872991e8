"""The layouts in which people keep preferences, demonstrations and votes: one module a layout."""
