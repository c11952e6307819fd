"""Request the results that the tools show from the queues. Moving a slider or changing colours needs no new job."""

from attrlib.diagnostics.deletion_curve import delete_in_order
from attrlib.diagnostics.single_deletion import cell_outputs
from attrlib.engine.jobs import Job, Priority, queue
from attrlib.models import Classifier
from attrlib.models.randomised import randomised
from attrlib.progress import NewsProgress
from attrlib.specs import digest
from pages.inspect.tile_rows import Ready, Row
from pages.shared import jobs

QUICK_GRID = 8
"""Largest number of patches per side whose deletion takes only a few seconds on a CPU, so that it runs before other jobs."""


def outputs_job(row: Row, grid: int, baseline: str, seed: int) -> Job:
    """Return the job that computes the model's outputs with each patch deleted, shared by all maps of a row."""

    def measure(on_progress: NewsProgress) -> object:
        return cell_outputs(row.model, row.photo, row.target, grid, baseline, seed, on_progress)

    key = digest("cell outputs", jobs.digest_of(row.model), row.photo.digest, row.target, grid, baseline, seed)
    return queue(str(row.model.device)).submit(
        key, measure, jobs.PATIENCE, priority=Priority.QUICK if grid <= QUICK_GRID else Priority.NORMAL
    )


def path_job(ready: Ready, order: str, grid: int | None, baseline: str, seed: int) -> Job:
    """Return the job that deletes the image step by step in the order of a map."""
    row, attribution = ready.row, ready.attribution

    def delete(on_progress: NewsProgress) -> object:
        return delete_in_order(row.model, row.photo, attribution, order, grid, baseline, seed, on_progress)

    key = digest("deletion path", ready.job.key, order, grid, baseline, seed)
    return queue(str(row.model.device)).submit(
        key, delete, jobs.PATIENCE, priority=Priority.QUICK if (grid or 0) <= QUICK_GRID else Priority.NORMAL
    )


def shuffled_job(model: Classifier, share: float, seed: int) -> Job:
    """Return the job that builds a copy of the model with shuffled weights in the last `share` of its layers."""

    def shuffle(_progress: NewsProgress) -> Classifier:
        shuffled = randomised(model, share, seed)
        jobs.digest_of(shuffled)
        return shuffled

    return queue("models").submit(digest("twin", jobs.digest_of(model), share, seed), shuffle)
