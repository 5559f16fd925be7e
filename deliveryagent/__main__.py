"""``python -m deliveryagent``, and the console scripts ``dagent`` and ``deliveryagent``."""

import sys


def main() -> None:
    """Run the command line of this process and exit with its status."""
    from deliveryagent.cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
