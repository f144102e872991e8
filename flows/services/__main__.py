"""The command `python -m flows.services`; `flows/services/up.py` has its words."""

from flows.services.up import main

if __name__ == "__main__":
    main()
