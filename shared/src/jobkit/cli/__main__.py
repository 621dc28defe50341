"""``python -m jobkit.cli`` is the command ``jobkit``."""

from jobkit.cli.entry import main

if __name__ == "__main__":
    main()
