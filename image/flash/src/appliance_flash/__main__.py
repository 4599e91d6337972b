"""`python -m appliance_flash`."""

import sys

from appliance_flash.cli import main

sys.exit(main())
