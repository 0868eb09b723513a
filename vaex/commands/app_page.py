"""The page of `vaex app`: its controls; what they call is `app_answers`', what is computed `app_explorer`'s."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from vaex.commands.app_answers import NONE, Answers
from vaex.commands.app_choices import Choices
from vaex.commands.app_explorer import Explorer
from vaex.commands.app_words import empty_html
from vaex.viz.overlays import OPACITY

ALTS = {
    "whole": "whole image and its score map, with an outline of the tile below",
    "images": "image, reconstruction and score map",
    "maps": "maps of the latents",
}
"""What is said of a picture to those who do not see it."""

SLOW = "score_cam, smooth_gradient and integrated_gradients take long, on large models minutes: Stop ends them"
STYLE = """
.vaex-head { font-size: 1.25rem; margin: 0 }
.vaex-head span { padding: .1rem .5rem; border-radius: .3rem; color: #fff !important; font-weight: 700 }
.vaex-ok { background: #0a6b3d } .vaex-anomalous { background: #a4371f } .vaex-open { background: #5a5a66 }
.vaex-error { border-left: .3rem solid #a4371f; padding: .3rem .8rem; font-weight: 600 }
"""


def page_of(explorer: Explorer, choices: Choices, title: str, folder: Path) -> Any:
    """Return the gradio page (Blocks) of a model called ``title``; archives are written below ``folder``.

    Every visitor has a state of their own. When they leave, gradio keeps it for an hour; what they wait for ends.
    """
    gr: Any = importlib.import_module("gradio")
    answers = Answers(gr, explorer, choices, folder)
    page = Page(gr, answers)

    def name(request: Any) -> Any:
        return request.session_hash

    def leave(request: Any) -> None:
        answers.stopping.leave(request.session_hash)

    for function in (name, leave):
        function.__annotations__["request"] = gr.Request  # gradio gives it to whom it is written at
    with gr.Blocks(analytics_enabled=False, title=f"vaex app: {title}", delete_cache=(600, 3600)) as blocks:
        gr.HTML(f"<style>{STYLE}</style>")
        page.draw(title)
        blocks.load(name, None, page.session, show_progress="hidden", api_visibility="private")
        blocks.unload(leave)
    return blocks


class Page:
    """The controls of one page, in order, and which of the ``answers`` each gives."""

    def __init__(self, gr: Any, answers: Answers) -> None:
        self.gr, self.answers, self.explorer = gr, answers, answers.explorer

    def draw(self, title: str) -> None:
        """Lay out the page and connect it."""
        gr = self.gr
        self.state, self.session = gr.State(None), gr.State("")
        gr.Markdown(f"# vaex app: {title}")
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                self.file = gr.File(label="Drop an image, or click to choose one", elem_id="file", height=120)
                sprites = self.explorer.takes_sprites
                self.example = gr.Button("Take an example sprite", elem_id="example", size="sm", visible=sprites)
                self.tile = gr.Dropdown([], label="tile", elem_id="tile", info="by falling score", visible=False)
                self.asked = [
                    gr.Dropdown(list(part), value=next(iter(part)), label=label, elem_id=label, info=info)
                    for label, part, info in zip(
                        ("layer", "method", "target"),
                        self.answers.choices,
                        (
                            "whose activation a map is read from",
                            "how it is made; " + SLOW,
                            "what it is of; by default each latent",
                        ),
                        strict=True,
                    )
                ]
                self.stop = gr.Button("Stop", elem_id="stop", size="sm")
                self.opacity = gr.Slider(0, 1, OPACITY, step=0.05, label="opacity", buttons=[], elem_id="opacity")
                self._draw_sliders()
                self.archive = gr.Button("Make a zip of all maps", elem_id="zip", size="sm")
                self.made = gr.File(label="Download", interactive=False, visible=False, elem_id="made", height=90)
            with gr.Column(scale=3, min_width=520):
                self.words = gr.HTML(empty_html(self.explorer), elem_id="words")
                self.pictures = [
                    gr.Image(
                        show_label=False, format="png", interactive=False, buttons=[], elem_id=name, alt_text=ALTS[name]
                    )
                    for name in self.answers.names
                ]
        self._connect()

    def _draw_sliders(self) -> None:
        gr, count = self.gr, self.answers.sliders
        total = self.explorer.latents
        part = "image" if self.explorer.tile is None else "tile"
        named = f"The {min(self.explorer.most, total)} latents of highest KL in this {part}, of {total}"
        gr.Markdown(
            f"{named}. Move one: the code is decoded, and the maps are drawn of that picture, too."
            if count
            else f"{named}, have maps here where the target is of single latents."
        )
        self.sliders = [gr.Slider(-4, 4, 0, visible=False, buttons=[], elem_id=f"slider{i}") for i in range(count)]
        self.extra = gr.Dropdown([NONE], value=NONE, label="one more latent", elem_id="extra")
        self.reset = gr.Button(f"Back to the code of the {part}", elem_id="reset", size="sm", visible=bool(count))

    def _connect(self) -> None:
        asked = [self.session, *self.asked, self.opacity]
        controls = [self.state, *asked, *self.sliders]
        shown = [self.state, self.words, *self.pictures]
        settings = [*self.sliders, self.extra, self.tile, self.made]
        answers = self.answers
        # one line for all that set the state: an answer that comes late would bring back the image before
        once = {"api_visibility": "private", "concurrency_id": "state"}
        live = {**once, "show_progress": "hidden", "trigger_mode": "always_last"}
        each = {**once, "trigger_mode": "multiple"}  # of two files the second must not be lost while the first is seen
        beside: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        for event, answer, given in (
            (self.file.upload, answers.on_file, [self.file, *asked]),
            (self.file.clear, answers.on_clear, None),
            (self.example.click, answers.on_example, asked),
        ):  # what is under way is of an image that is no longer wanted
            ended = event(answers.stopping.ask, self.session, None, trigger_mode="multiple", **beside)
            ended.then(answer, given, [*shown, *settings], **each)
        # select: input comes again when the list is left, and would undo what was moved since
        self.tile.select(answers.on_tile, [self.state, self.tile, *asked], [*shown, *settings], **each)
        seen = [self.words, *self.pictures]
        for control in self.asked:  # change: input comes again, with the old value, when a list is opened
            control.change(answers.on_asked, [self.file, *controls], [*shown, *settings], show_progress_on=seen, **once)
        for slider in (self.opacity, *self.sliders):
            slider.input(answers.on_change, controls, shown, **live)
        self.extra.input(answers.on_extra, [self.state, self.extra, self.opacity], [*shown, *settings], **once)
        self.reset.click(answers.on_reset, [self.state, self.session, self.opacity], [*shown, *settings], **once)
        # beside the queue, in which it would wait for what it is to end
        self.stop.click(answers.stopping.ask, self.session, None, **beside)
        self.archive.click(
            answers.on_archive, [self.state, self.opacity], [self.words, self.made], api_visibility="private"
        )
