"""``python -m titan_neuro`` is ``titan-neuro``."""

import sys

from titan_neuro.cli import main

sys.exit(main())
