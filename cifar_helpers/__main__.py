"""`python -m cifar_helpers`: the command line of the course."""

import sys

from cifar_helpers.course.commands import main

if __name__ == "__main__":
    sys.exit(main())
