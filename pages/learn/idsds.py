"""IDSDS, step by step on one picture."""

from dataclasses import dataclass

import torch

from attrlib.deletion import cells
from attrlib.diagnostics.single_deletion import cell_score
from attrlib.figures.cells import cell_scatter, draw_cells, magnitude
from attrlib.figures.deletion import draw_deleted
from attrlib.figures.numbers import signed
from attrlib.protocols.deletion import IDSDS_PAPER
from attrlib.registry import param
from pages.learn.beyond import scores
from pages.learn.context import TUNED, LessonContext
from pages.learn.drawing import VIEW, hidden, plot, rows
from pages.learn.lesson import LESSONS, Beyond, Lesson
from pages.shared import map_jobs
from pages.shared.tiles import figure, head

GRID = 4
METHODS = ("IxG", "IG:steps=16", "Grad-CAM", "Occlusion", "Random")


@LESSONS.register
@dataclass(frozen=True)
class Idsds(Lesson):
    """Output drops, sums of the map, and their rank correlation."""

    name = "idsds"
    title = "IDSDS, step by step"
    claim = "Delete one patch at a time, on a model fine-tuned on deleted patches. A good map ranks the patches like the output drops do."
    formula = (
        r"d_i = f_y(x) - f_y(x \setminus i), \qquad s_i = \sum_{p \in i} a_p\\[0.4em] \text{IDSDS} = \operatorname{mean}_x\; \rho(d, s)"
    )
    letters = "i: one of 16 patches. x∖i: the image with patch i replaced by the mean colour. f: the logit of the class. ρ: Spearman's rank correlation."
    paper = IDSDS_PAPER
    shape = (2, 2)
    step: int = param(
        4, "1: delete a patch. 2: output drop per patch. 3: attribution per patch. 4: drop against attribution", low=1, high=4
    )
    method: str = param("IxG", "The method to score", choices=METHODS)
    cell: int = param(6, "The patch deleted in the first image, counted row by row", low=1, high=GRID**2, label="Patch")

    def show(self, context: LessonContext) -> str:
        model, bird = context.tuned, context.bird
        target = model.target(bird.name)
        (outputs,) = context.wait(map_jobs.outputs_job(model, bird.photo, target, GRID, "zeros", context.seed))
        score = cell_score(outputs, context.maps(model, bird.photo, [self.method], target)[0])
        photo, values = context.picture(bird, model), outputs.outputs["logit"][0]
        gone = torch.zeros(1, 1, *model.input_size, dtype=torch.bool)
        cells(gone, GRID)[self.cell - 1].fill_(True)
        mean = model.preprocessing.shown(torch.zeros(model.input_shape)).permute(1, 2, 0)
        deleted = draw_deleted(photo, gone[0, 0], torch.zeros_like(gone[0, 0]), (mean * 255).round().byte().numpy(), outlined=False)
        tiles = rows(2)
        with tiles.cell():
            line = f"logit {values[0]:.2f} → {values[self.cell]:.2f}: drop {signed(float(score.drops[self.cell - 1]))}"
            figure("1. One patch deleted", line, deleted, f"The bird without patch {self.cell}, {line}")
        pictures = (
            ("2. Output drop per patch", f"{model.class_names[target]}, 1 + 16 forward passes", score.drops),
            ("3. Attribution per patch", f"sum of {self.method}, same model", score.sums),
        )
        for number, (title, line, numbers) in enumerate(pictures, 2):
            with tiles.cell():
                if self.step >= number:
                    figure(title, line, draw_cells(photo, numbers, VIEW, magnitude([numbers])), f"{title}: {line}")
                else:
                    hidden(title, photo.size)
        with tiles.cell():
            if self.step < 4:
                hidden("4. Drop against attribution", photo.size)
            else:
                head("4. Drop against attribution", f"rank correlation {signed(score.correlation)}")
                drawn = cell_scatter(score.drops, score.sums, "logit")
                plot(drawn, f"Drop against attribution sum of 16 patches, rank correlation {signed(score.correlation)}")
        return (
            f"For this bird, {self.method} scores {signed(score.correlation)}. 1: the map ranks the patches like the drops do; 0: no relation. "
            "The IDSDS of a method is the mean over many images."
        )

    def beyond(self, model: str) -> Beyond:
        return scores([f"{model}{TUNED}"], "idsds", ",".join(METHODS))
