"""``python -m edgepipe.pipeline.cli``: the command line without its console script."""

from . import main

if __name__ == "__main__":
    main()
