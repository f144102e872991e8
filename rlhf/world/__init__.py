"""The built-in task: a small, seeded TL;DR world whose every claim can be checked.

`posts` states typed facts, `writers` summarise them imperfectly, `parser` reads any summary back into
claims, `gold` says which of two summaries is better, `labelers` are simulated people, `judges` ask either.
Only judges and the simulated labelers may read `gold`; an import contract keeps training out.
"""
