"""What every stage has: its settings, its key, its tracking run, the places where things lie."""
