"""What is measured against whom: one command each; results are kept in results/ with date and machine."""
