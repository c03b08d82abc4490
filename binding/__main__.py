"""`python -m binding` is `ippm-ipsec`."""

from binding.cli import main

if __name__ == "__main__":
    main(prog_name="ippm-ipsec")
