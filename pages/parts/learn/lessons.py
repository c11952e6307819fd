"""All lessons, registered in the order of the lecture."""

# isort: off
import pages.parts.learn.what
import pages.parts.learn.truth
import pages.parts.learn.deletion
import pages.parts.learn.leakage
import pages.parts.learn.idsds
import pages.parts.learn.grids
import pages.parts.learn.layers
import pages.parts.learn.aggatt
import pages.parts.learn.smoothing
import pages.parts.learn.infidelity
import pages.parts.learn.sanity
import pages.parts.learn.disagree  # noqa: F401
