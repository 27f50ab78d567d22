"""`python -m pdepth`, the command line."""

from pdepth.cli import main

if __name__ == "__main__":
    main()
