"""``python -m deliveryagent``, and the console scripts ``dagent`` and ``deliveryagent``."""

import sys


def main() -> None:
    """Run the command line of this process and exit with its status."""
    from deliveryagent.cli.quick import quick

    status = quick(sys.argv[1:])
    if status is None:
        from deliveryagent.cli import run

        status = run()
    sys.exit(status)


if __name__ == "__main__":
    main()
