"""`python -m serve BUNDLE`: `potstill serve BUNDLE`."""

import sys

from distill.cli.main import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
