"""Run `python -m jaxdrill COMMAND`, which is the same as `jaxdrill COMMAND`."""

import sys

from jaxdrill.main import main

sys.exit(main())
