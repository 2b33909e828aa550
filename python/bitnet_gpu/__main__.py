"""The program `bitnet-gpu`: `python -m bitnet_gpu run`."""

import signal
import sys

from ._core import run_program


def main() -> None:
    """Runs the program on the arguments of this process."""
    # The program has its own way to end; Python's would wait for it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(run_program(["bitnet-gpu", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
