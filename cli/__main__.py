"""`python -m cli`: the command without its installed script."""

from cli.app import main

if __name__ == "__main__":  # a spawned process imports this file
    main()
