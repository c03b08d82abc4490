"""`python -m ippm`."""

from ippm.cli.entry import main

if __name__ == "__main__":
    main()
