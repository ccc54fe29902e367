"""`python -m ptinspect`."""

from ptinspect.cli import main

if __name__ == "__main__":
    main()
