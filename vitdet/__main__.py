"""`python -m vitdet <verb> …` is `vitdet <verb> …`."""

from vitdet.cli import main

if __name__ == "__main__":
    main()
