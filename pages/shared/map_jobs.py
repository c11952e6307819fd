"""Request the results of closer looks at a map from the queues: outputs without patches, deletion curves, models with shuffled weights."""

from attrlib.data.images import Photo
from attrlib.diagnostics.deletion_curve import delete_in_order
from attrlib.diagnostics.single_deletion import cell_outputs
from attrlib.engine.jobs import Job, Priority, queue
from attrlib.models import Classifier
from attrlib.models.randomised import randomised
from attrlib.progress import NewsProgress
from attrlib.specs import digest
from pages.shared import jobs

QUICK_GRID = 8
"""Largest number of patches per side whose deletion takes only a few seconds on a CPU, so that it runs before other jobs."""


def outputs_job(model: Classifier, photo: Photo, target: int, grid: int, baseline: str, seed: int) -> Job:
    """Return the job that computes the model's outputs with each patch deleted, which do not depend on a map."""

    def measure(on_progress: NewsProgress) -> object:
        return cell_outputs(model, photo, target, grid, baseline, seed, on_progress)

    key = digest("cell outputs", jobs.digest_of(model), photo.digest, target, grid, baseline, seed)
    return queue(str(model.device)).submit(key, measure, jobs.PATIENCE, priority=_priority(grid))


def path_job(model: Classifier, photo: Photo, map_job: Job, order: str, grid: int | None, baseline: str, seed: int) -> Job:
    """Return the job that deletes the image step by step in the order of a computed map."""

    def delete(on_progress: NewsProgress) -> object:
        return delete_in_order(model, photo, map_job.result, order, grid, baseline, seed, on_progress)

    key = digest("deletion path", map_job.key, order, grid, baseline, seed)
    return queue(str(model.device)).submit(key, delete, jobs.PATIENCE, priority=_priority(grid or 0))


def _priority(grid: int) -> Priority:
    return Priority.QUICK if grid <= QUICK_GRID else Priority.NORMAL


def shuffled_job(model: Classifier, share: float, seed: int) -> Job:
    """Return the job that builds a copy of the model with shuffled weights in the last `share` of its layers."""

    def shuffle(_progress: NewsProgress) -> Classifier:
        shuffled = randomised(model, share, seed)
        jobs.digest_of(shuffled)
        return shuffled

    return queue("models").submit(digest("twin", jobs.digest_of(model), share, seed), shuffle)
