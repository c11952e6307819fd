"""Make torch's CPU threads sleep while they wait for each other. Import this module before torch.

By default they spin. If anything else runs on the same cores (a browser, the app's server, another process), a spinning
thread keeps the one it waits for from running: one pass then took 5.6 s instead of 0.13 s on two cores. Sleeping costs a few
percent on an idle machine. OpenMP reads the variable when torch is loaded. A value set by the user is kept.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
