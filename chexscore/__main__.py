"""python -m chexscore, the same as the command chexscore."""

import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the command: all but this is imported where an interrupt is no traceback any more."""
    # By an exception, so that temporary files go, with the paths and scores in them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        from chexscore.cli import main as run  # noqa: PLC0415, see above

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
