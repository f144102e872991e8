"""The rules that rows must keep, as data: what each says, why, how grave it is, and how it is computed."""
