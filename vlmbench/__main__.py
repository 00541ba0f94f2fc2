"""`python -m vlmbench`."""

from vlmbench.cli.main import main

if __name__ == "__main__":
    main()
