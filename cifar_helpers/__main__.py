"""`python -m cifar_helpers`: the command line of the course."""

from cifar_helpers.course.commands import main
from cifar_helpers.runtime import end_process

if __name__ == "__main__":
    end_process(main())
