"""The datasets of the forecast benchmark: which recordings, which folds, and how much training each table takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import permutations

MOVIES = ("sitcomep1", "sitcomep2", "documentary")
_N_PEOPLE = 12
# Contexts of the synthetic dataset's curve, in time points, besides the probe's own: windows of the analogs, and 40.
_CONTEXTS = "probe.context_length.contexts_time_points=[20, 40, 80, 160]"
BRIEF = (
    *("seeds=[0]", "training.max_epochs=0", "comparison_models=false"),
    "evaluation.rollout_every_time_points=0",
)
"""Settings of most tables, and of the probes. No epoch has improved the closed form by more than 0.003 (docs/log.md):
there is none, so that seeds change no forecast; comparison models and rollouts are left to `sitcom-trained`."""
_IS_BRIEF = (
    "The closed form alone, which does not depend on a seed: no epoch has improved it by more than 0.003. The table "
    "`sitcom-trained` has up to four epochs of gradient training, three seeds and comparison models."
)
_AS_SITCOM = (
    "Not measured on phase-randomized data here: the table `sitcom` has it, for recordings of the same study, with the "
    "same filters."
)
_FILTERED = (
    "These recordings were high-pass filtered over whole runs before we received them: there is almost no power below "
    "0.009 Hz. Rows with a long history can predict such filtered signals; linear AR has 8 lags (docs/log.md). The "
    "rows on phase-randomized data say how much."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """One study of a table.

    Attributes
    ----------
    name : str
        Of its folder and its row; empty where the table is one study.
    tasks : tuple of str
        Labels of the tasks that are prepared; empty for all.
    settings : tuple of str
        That differ from those of the dataset, as ``--set`` takes them.
    """

    name: str = ""
    tasks: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One of the tables.

    Attributes
    ----------
    title : str
        Heading.
    recordings : str or None
        Folder of real recordings; None simulates them.
    settings_file : str or None
        File in ``pipelines/`` that the settings below override.
    ways : tuple of Way
        Studies of the table. With several, a person's value is the mean over those that tested this person.
    simulated : tuple of str
        Settings of the simulation, as ``--set`` takes them.
    settings : tuple of str
        Of the study, as ``--set`` takes them.
    has_curve : bool
        Whether the forecasts are also scored by the length of the context.
    caveats : tuple of str
        What affects every number: earlier processing, how little was trained.
    no_surrogate : str
        Why nothing is measured on phase-randomized data; '' where it is.
    """

    title: str
    recordings: str | None = None
    settings_file: str | None = None
    ways: tuple[Way, ...] = (Way(),)
    simulated: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    has_curve: bool = False
    caveats: tuple[str, ...] = ()
    no_surrogate: str = ""


def _one_to_another() -> Iterator[Way]:
    """Every ordered pair of movies; a third of the people is tested on each, and everybody on two."""
    for number, (first, second) in enumerate(permutations(MOVIES, 2)):
        people = [f"sub-{person:03d}" for person in range(1 + number % 3, _N_PEOPLE + 1, 3)]
        test = f"split.test=[{', '.join([*people, f'task-{second}'])}]"
        yield Way(name=f"{first}-to-{second}", tasks=(first, second), settings=(test,))


EXAMPLES = {
    "synthetic": Example(
        title="Forecasts of the synthetic dataset, held-out subjects",
        # A stimulus, associations that are new in each subject, and responses delayed by two minutes.
        simulated=(
            *("n_subjects=9", "n_runs=2", "volume_scale=1", "stimulus_fraction=0.4"),
            *(
                "association_fraction=0.2",
                "cue_interval_s=5",
                "delayed_response_fraction=0.2",
                "delayed_response_lags_s=[120]",
            ),
        ),
        settings=("model.horizons=[1, 2, 3, 6, 10, 20]", _CONTEXTS),
        has_curve=True,
        caveats=(_IS_BRIEF,),
    ),
    "sitcom": Example(
        title="Forecasts of the sitcom, held-out subjects, the same stimulus, 200 parcels",
        recordings="sitcom-parcels",
        settings_file="sitcom.yaml",
        settings=BRIEF,
        caveats=(_FILTERED, _IS_BRIEF),
    ),
    "sitcom-trained": Example(
        title="Forecasts of the sitcom with gradient training, held-out subjects, the same stimulus, 200 parcels",
        recordings="sitcom-parcels",
        settings_file="sitcom.yaml",
        # Comparison models learn by gradients only.
        settings=(
            *("seeds=[0, 1, 2]", "training.max_epochs=4", "comparison_models=true"),
            "evaluation.rollout_every_time_points=128",
        ),
        has_curve=True,
        caveats=(_FILTERED,),
    ),
    "episode2": Example(
        title="Forecasts of a second episode of the sitcom, held-out subjects, the same stimulus, 200 parcels",
        recordings="films-parcels",
        settings_file="films.yaml",
        ways=(Way(tasks=("sitcomep2",)),),
        settings=("split.by=subject", *BRIEF),
        caveats=(_FILTERED, _IS_BRIEF),
        no_surrogate=_AS_SITCOM,
    ),
    "documentary": Example(
        title="Forecasts of a documentary, held-out subjects, the same stimulus, 200 parcels",
        recordings="films-parcels",
        settings_file="films.yaml",
        ways=(Way(tasks=("documentary",)),),
        settings=("split.by=subject", *BRIEF),
        caveats=(_FILTERED, _IS_BRIEF),
        no_surrogate=_AS_SITCOM,
    ),
    "unseen": Example(
        title="Forecasts of an unseen movie, trained on two others: held-out subjects and held-out movies (strict)",
        recordings="films-parcels",
        settings_file="films.yaml",
        ways=(Way(tasks=MOVIES),),
        settings=BRIEF,
        caveats=(_FILTERED, _IS_BRIEF),
    ),
    "unseen-one": Example(
        title="Forecasts of an unseen movie, trained on one other, all six ways (strict)",
        recordings="films-parcels",
        settings_file="films.yaml",
        ways=tuple(_one_to_another()),
        settings=BRIEF,
        caveats=(_FILTERED, _IS_BRIEF),
        no_surrogate=_AS_SITCOM,
    ),
    "rest": Example(
        title="Forecasts of rest, held-out subjects, two runs of 600 time points, 200 parcels",
        recordings="films-parcels",
        settings_file="films.yaml",
        ways=(Way(tasks=("rest",)),),
        settings=("split.by=subject", *BRIEF),
        caveats=(_FILTERED, _IS_BRIEF),
    ),
    "sherlock": Example(
        title="Forecasts of Sherlock, held-out subjects, the same stimulus, 481 voxels of posterior medial cortex",
        recordings="sherlock-pmc",
        settings_file="sherlock.yaml",
        ways=(Way(tasks=("sherlock",)),),
        # Without the retelling, which no model reads.
        settings=("probe.recall.tasks=null", *BRIEF),
        caveats=(
            "These recordings were smoothed (6 mm) and z-scored over the whole movie before we received them; they "
            "were not high-pass filtered.",
            _IS_BRIEF,
        ),
    ),
    "haxby": Example(
        title="Forecasts of haxby25mm, one subject, leave-one-run-out",
        recordings="haxby25mm",
        settings_file="haxby.yaml",
        settings=("model.horizons=[1, 2, 3, 6, 10, 20]", *BRIEF),
        caveats=(_IS_BRIEF,),
    ),
}
"""The tables by name; those with recordings are the datasets of ``shared/data``."""
