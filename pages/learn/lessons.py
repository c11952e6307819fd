"""All lessons, registered in the order of the lecture."""

# isort: off
import pages.learn.what
import pages.learn.targets
import pages.learn.truth
import pages.learn.deletion
import pages.learn.leakage
import pages.learn.idsds
import pages.learn.grids
import pages.learn.layers
import pages.learn.aggatt
import pages.learn.smoothing
import pages.learn.infidelity
import pages.learn.sanity
import pages.learn.disagree  # noqa: F401
