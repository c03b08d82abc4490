"""`python -m ippm`."""

from ippm.cli.main import main

if __name__ == "__main__":
    main()
