"""`python -m ptrtensor`, and the console script."""

import importlib
import sys


def main() -> None:
    try:
        cli = importlib.import_module("ptrtensor.cli")
    except ModuleNotFoundError as error:
        sys.exit(f"ptrtensor: this needs {error.name}: pip install 'ptrtensor[serve]'")
    cli.app()


if __name__ == "__main__":
    main()
