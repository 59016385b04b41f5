"""``python -m cli`` is ``touchmark``."""

from cli.main import main

if __name__ == "__main__":
    main()
