import sys

from xaiutils.widgets.app.launch import main

sys.exit(main())
