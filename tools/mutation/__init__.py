"""Does a test fail when the line that enforces its requirement is removed? The parts of tools/mutate.py."""
