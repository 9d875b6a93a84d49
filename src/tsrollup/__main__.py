"""Where the `tsrollup` command begins; an early Ctrl-C, while modules load, is no traceback."""

import sys


def main() -> None:
    try:
        from tsrollup.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
