"""The table of all rules, as docs/data.md shows it: `python -m tasks.rules`."""

from tasks.rules.catalogue import markdown

if __name__ == "__main__":
    print(markdown(), end="")
