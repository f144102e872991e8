"""Labels in: from files of the data contracts, from Argilla, Label Studio and the QA-feedback data."""
