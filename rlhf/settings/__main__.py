"""`python -m rlhf.settings` prints the table of every parameter."""

from __future__ import annotations

from rlhf.settings.tree import describe

if __name__ == "__main__":
    print("| parameter | default | unit, bounds | meaning |\n|---|---|---|---|")
    for row in describe():
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
