"""The command `python -m flows.services`, which flows/services/up.py describes."""

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

from flows.services.up import main

if __name__ == "__main__":
    main()
