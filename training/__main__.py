"""python -m training split | prepare | fit | average."""

import signal
import sys

from chexscore.errors import TERMINATED, exit_on_error

if __name__ == "__main__":
    # By an exception, so that partial files go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    with exit_on_error("training", "stopped; give the same command again to go on."):
        from training.cli import app  # an interrupt while modules are loaded is no traceback here

        app()
