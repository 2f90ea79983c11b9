"""The scenes of a story: when each is shown, and what its annotations say."""

from __future__ import annotations

from dataclasses import dataclass

from titan_neuro.data.simulate.config import FIRST_STIMULUS_SECOND, RandomStream, RunDesign, SimulateConfig, run_designs

STORYLINES, PLACES = ("A", "B"), ("indoor", "outdoor")
_SCENES_OF_A_STORYLINE = 4
_SHORTEST_S = 6


@dataclass(frozen=True)
class Scene:
    """One scene of the movie.

    Attributes
    ----------
    name : str
        Its number, from 1.
    start, stop : int
        Seconds of the movie, counted as in `RunDesign`; `stop` is exclusive.
    storyline, place : str
    character : int or None
        Index of the character that it shows, from 0; None where characters have no part in the story.
    """

    name: str
    start: int
    stop: int
    storyline: str
    place: str
    character: int | None = None

    def annotations(self) -> dict[str, str]:
        """Columns of the events table that describe it."""
        columns = {"scene": self.name, "storyline": self.storyline, "place": self.place}
        return columns if self.character is None else {**columns, "character": f"character-{self.character + 1}"}


def draw_scenes(config: SimulateConfig) -> list[Scene]:
    """Draw the scenes of the movie: lengths are 6 s and an exponential rest, with the mean `scene_s`.

    No character is shown in two scenes in a row, so each returns after another.
    """
    rng, of_characters = config.rng(RandomStream.STORY), config.rng(RandomStream.CHARACTERS)
    stop = max(run.stimulus_start + run.stimulus for run in run_designs(config))
    scenes, start, character = list[Scene](), FIRST_STIMULUS_SECOND, None
    while start < stop:
        number, place = len(scenes), PLACES[int(rng.integers(2))]
        length = _SHORTEST_S + int(rng.exponential(config.scene_s - _SHORTEST_S))
        # A rest that is too short for a scene belongs to the last one.
        end = start + length if start + length + _SHORTEST_S <= stop else stop
        storyline = STORYLINES[number // _SCENES_OF_A_STORYLINE % 2]
        if config.cue_source == "story":
            others = [index for index in range(config.n_associations) if index != character]
            character = int(of_characters.choice(others))
        scenes.append(Scene(str(number + 1), start, end, storyline, place, character))
        start = end
    return scenes


def shown_scenes(scenes: list[Scene], run: RunDesign) -> list[tuple[int, int, int]]:
    """Find the scenes that a run shows: index of the scene; its first volume in the run, and the one after its last."""
    shown = []
    for index, scene in enumerate(scenes):
        first, stop = (
            run.fixation + min(max(second - run.stimulus_start, 0), run.stimulus)
            for second in (scene.start, scene.stop)
        )
        if first < stop:
            shown.append((index, first, stop))
    return shown
