"""The table of all rules, as docs/data.md shows it: `python -m tasks.rules`."""

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

from tasks.rules.catalogue import markdown

if __name__ == "__main__":
    print(markdown(), end="")
