"""Entry point of the command `batchnorm` and of `python -m batchnorm`."""

import sys

from .errors import MissingExtraError


def main() -> None:
    """Run the command line, or say what to install when its dependencies are missing."""
    try:
        from .cli import run
    except ModuleNotFoundError as error:
        missing = MissingExtraError(
            f"the command line needs {error.name}, which is not installed: "
            "pip install 'batchnorm[study]'"
        )
        print(f"{missing}\nSee {missing.page}", file=sys.stderr)
        sys.exit(missing.exit_code)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
