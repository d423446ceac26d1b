"""`python -m holdover`."""

import sys

from holdover.apps.cli import main

sys.exit(main())
