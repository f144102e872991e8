"""Labels in: from files of every layout that the pipeline reads."""
