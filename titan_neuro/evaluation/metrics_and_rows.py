"""What the tables speak of, defined once: metrics, rows and their kinds, columns, protocols and ceilings.

Tables, sidecars, figures and the report take their names, definitions and labels from here. The module imports nothing
of the package, so that anything above it can use it without cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

LEAD_TIME_POINTS = "lead_time_points"
LEAD_TIME_S = "lead_time_s"
"""Columns of the lead time ``h``: how far ahead a forecast lies, in time points and in seconds."""

RESET_TIME_POINTS = 20
"""Time points after which the control ``-reset20`` resets its memory; also the window of ``transformer-20``."""

WHITENESS_LAGS, WHITENESS_FEATURES, WHITENESS_ALPHA = 10, 200, 0.05
"""The test for autocorrelated residuals: its lags, the features tested in a run, and the level of significance."""


class Kind(StrEnum):
    """Kind of a row, as in the column ``kind``; the members stand in the order of the tables."""

    MODEL = "model"
    CONTROL = "control"
    COMPARISON_MODEL = "comparison_model"
    BASELINE = "baseline"
    ORACLE_REFERENCE = "oracle_reference"

    @property
    def label(self) -> str:
        """The kind in words: ``comparison model``."""
        return self.value.replace("_", " ")


_CONTROL = "the study's model with one part zeroed, replaced or restricted"
KIND_HEADINGS = {
    Kind.MODEL: "The study's model",
    Kind.CONTROL: f"Controls: {_CONTROL}",
    Kind.COMPARISON_MODEL: "Comparison models: other networks of the same size, trained in the same way",
    Kind.BASELINE: "Baselines: closed-form forecasters",
    Kind.ORACLE_REFERENCE: "Oracle references: given the true stimulus position, so they are not forecasts",
}
"""Heading of each group of rows, in the order of the tables."""

MEAN, PERSISTENCE, DAMPED = "mean", "persistence", "damped"
AR, VAR, VAR_ONLINE, LINEAR_ONLINE = "ar", "var", "var-online", "linear-online"
ANALOGS = ("analog-20", "analog-80", "analog-160")
SOFT_ANALOGS = ("soft-analog-20", "soft-analog-80", "soft-analog-160")
GRU, TRANSFORMER_20 = "gru", "transformer-20"
INTERSUBJECT_AVERAGE, INTERSUBJECT_AVERAGE_AR = "intersubject-average", "intersubject-average+ar"

FROZEN_SUFFIX, RESET_SUFFIX = "frozen", f"reset{RESET_TIME_POINTS}"
BACKBONE_SUFFIX, BLOCKS_SUFFIX = "backbone-zeroed", "blocks-zeroed"
STIMULUS_SUFFIX, RECALL_SUFFIX = "stimulus-zeroed", "recall-zeroed"
SWIN_SUFFIX, SWIN_MEANS_SUFFIX = "swin-zeroed", "swin-random-means"
"""What a control's name adds to that of the study's model: ``titan-mac-frozen``, ``titan-mac-backbone-zeroed``."""


@dataclass(frozen=True)
class Row:
    """One forecaster of the tables.

    Attributes
    ----------
    name : str
        As in the column ``model``.
    kind : Kind
    label : str
        The row in words, for tables and legends.
    definition : str
        One sentence, where the label does not say all.
    """

    name: str
    kind: Kind
    label: str
    definition: str = ""


ROWS = {
    row.name: row
    for row in (
        Row(
            GRU,
            Kind.COMPARISON_MODEL,
            "gated recurrent unit as the backbone, without recall",
            "A model of its own, trained in the same way and of the same size: linear skip, a GRU instead of the "
            "Titans backbone, decoder, and no recall.",
        ),
        Row(TRANSFORMER_20, Kind.COMPARISON_MODEL, f"Transformer, window of {RESET_TIME_POINTS} time points"),
        Row(MEAN, Kind.BASELINE, "mean of the training data"),
        Row(PERSISTENCE, Kind.BASELINE, "last time point"),
        Row(DAMPED, Kind.BASELINE, "last time point, damped towards the mean"),
        Row(AR, Kind.BASELINE, "linear autoregression"),
        Row(VAR, Kind.BASELINE, "vector autoregression"),
        Row(VAR_ONLINE, Kind.BASELINE, "vector autoregression, updated during the test run"),
        Row(
            LINEAR_ONLINE,
            Kind.BASELINE,
            "autoregression of each feature and of all together, both updated during the test run",
        ),
        *(Row(name, Kind.BASELINE, f"analog forecast, last {name.split('-')[-1]} time points") for name in ANALOGS),
        *(
            Row(name, Kind.BASELINE, f"weighted analog forecast, last {name.split('-')[-1]} time points")
            for name in SOFT_ANALOGS
        ),
        Row(INTERSUBJECT_AVERAGE, Kind.ORACLE_REFERENCE, "intersubject average"),
        Row(INTERSUBJECT_AVERAGE_AR, Kind.ORACLE_REFERENCE, "intersubject average + AR"),
    )
}
"""Rows whose names don't depend on the study's model, by name. `row_of` covers its own and its controls, too."""

_BACKBONES = {
    "titan-lmm": "Titans, long-term memory module (LMM)",
    "titan-mac": "Titans, memory as context (MAC)",
    "titan-mag": "Titans, memory as gate (MAG)",
    "titan-mal": "Titans, memory as layer (MAL)",
}


@dataclass(frozen=True)
class Ablation:
    """A control: what is taken from the study's model, and what the difference between the two says.

    The difference is that of the model minus the control, so that a part which helps has a difference above 0.

    Attributes
    ----------
    suffix : str
        What the control's name adds to that of the model.
    label : str
        The control in words.
    part : str
        What the model has and the control lacks, in the singular.
    definition : str
        One sentence.
    """

    suffix: str
    label: str
    part: str
    definition: str


ABLATIONS = {
    ablation.suffix: ablation
    for ablation in (
        Ablation(
            FROZEN_SUFFIX,
            "test-time learning off",
            "the memory that learns at test time",
            "The memories are read as they were after training, and never written.",
        ),
        Ablation(
            RESET_SUFFIX,
            f"memory reset every {RESET_TIME_POINTS} time points",
            f"what the memories hold from more than {RESET_TIME_POINTS} time points ago",
            f"The memories return to their initial state every {RESET_TIME_POINTS} time points.",
        ),
        Ablation(
            BACKBONE_SUFFIX,
            "backbone zeroed",
            "the backbone",
            "The forecast is that of linear skip and recall: memory, blocks and decoder of the backbone give 0.",
        ),
        Ablation(
            BLOCKS_SUFFIX,
            "blocks of the backbone zeroed",
            "training its blocks by gradients",
            "The forecast is that of linear skip, recall and the backbone's memory, which nothing gates; the blocks, "
            "which gradients train, and the decoder give 0.",
        ),
        Ablation(
            STIMULUS_SUFFIX,
            "stimulus memory zeroed",
            "the memory of the stimulus",
            "The forecast is that of linear skip, vector autoregression and backbone: nothing is known of what "
            "training subjects' brains did at this moment of the stimulus.",
        ),
        Ablation(
            RECALL_SUFFIX,
            "recall zeroed",
            "the recall as a whole",
            "The forecast is that of linear skip and backbone, whose memory learns the errors of the linear skip "
            "alone: nothing is known of the stimulus, nor of what training subjects' brains have in common.",
        ),
        Ablation(
            SWIN_SUFFIX,
            "Swin tokens zeroed",
            "the Swin encoder",
            "The backbone reads tokens of 0 instead of those that the Swin encoder makes of each volume.",
        ),
        Ablation(
            SWIN_MEANS_SUFFIX,
            "Swin tokens replaced by random spatial means",
            "the Swin encoder, compared with random spatial means,",
            "Each feature that the Swin encoder makes of a volume is replaced by the mean over a random box of voxels, "
            "scaled to the mean and variance of that feature in training runs.",
        ),
    )
}
"""The controls by their suffixes, in the order of the table. Swin rows are those of models that read volumes."""


def row_of(name: str) -> Row:
    """Describe the row `name`, the study's model and its controls included.

    Parameters
    ----------
    name : str
        As in the column ``model``.

    Returns
    -------
    Row
        A name that is not known here is taken for a model, and its own label.
    """
    if name in ROWS:
        return ROWS[name]
    ablation = ablation_of(name)
    if ablation is not None:
        return Row(name, Kind.CONTROL, ablation.label, ablation.definition)
    return Row(name, Kind.MODEL, _BACKBONES.get(name, name))


def ablation_of(name: str) -> Ablation | None:
    """What the control `name` takes from its model; None where `name` is no control."""
    return next((ablation for suffix, ablation in ABLATIONS.items() if name.endswith(f"-{suffix}")), None)


def control_name(model: str, suffix: str) -> str:
    """Name of a control of `model`; `suffix` is a key of `ABLATIONS`."""
    return f"{model}-{suffix}"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of the tables.

    Attributes
    ----------
    name : str
        Name of its column; ``_low`` and ``_high`` are added for the ends of its 95 % interval.
    label : str
        The metric in words, at its first mention and on axes.
    definition : str
        One sentence.
    formula : str
        ``y`` is the recorded value, ``f`` the forecast, summed over time points and features where nothing else is
        said.
    unit : str
    direction : {"higher", "lower", "target"}
        Which values are better; ``target`` means those near `target`.
    target : float, optional
        The value of a perfect forecast where neither higher nor lower is better.
    reference : str, optional
        The row that a skill is measured against; it scores 0 by definition.
    """

    name: str
    label: str
    definition: str
    formula: str
    unit: str
    direction: Literal["higher", "lower", "target"]
    target: float | None = None
    reference: str | None = None

    @property
    def direction_in_words(self) -> str:
        """Which values are better, as a clause: ``higher is better``."""
        return f"best at {self.target:g}" if self.direction == "target" else f"{self.direction} is better"


_FRACTION = "1 (dimensionless)"
METRICS_BY_NAME = {
    metric.name: metric
    for metric in (
        Metric(
            name="skill_ar",
            label="error removed beyond linear autoregression (skill)",
            definition="Fraction of the squared error of linear autoregression that the forecast removes.",
            formula="1 - sum (y - f)^2 / sum (y - f_AR)^2",
            unit=_FRACTION,
            direction="higher",
            reference=AR,
        ),
        Metric(
            name="skill",
            label="error removed beyond persistence",
            definition="Fraction of the squared error of persistence that the forecast removes.",
            formula="1 - sum (y - f)^2 / sum (y - f_persistence)^2",
            unit=_FRACTION,
            direction="higher",
            reference=PERSISTENCE,
        ),
        Metric(
            name="r2",
            label="variance explained (r2)",
            definition="Fraction of the variance about the training mean that the forecast explains; may be negative.",
            formula="1 - sum (y - f)^2 / sum (y - training mean)^2",
            unit=_FRACTION,
            direction="higher",
            reference=MEAN,
        ),
        Metric(
            name="r",
            label="correlation over time",
            definition="Pearson correlation of forecast and recording over the time points of a run, averaged over "
            "features and runs.",
            formula="tanh(mean over features and runs of arctanh(r))",
            unit=_FRACTION,
            direction="higher",
        ),
        Metric(
            name="pattern_r",
            label="spatial correlation",
            definition="Pearson correlation of forecast and recording over features, averaged over time points.",
            formula="tanh(mean over time points of arctanh(r))",
            unit=_FRACTION,
            direction="higher",
        ),
        Metric(
            name="variance_ratio",
            label="variance ratio of rollouts",
            definition="Variance over time of the rollout, divided by that of the recording.",
            formula="sum (f - mean f)^2 / sum (y - mean y)^2",
            unit=_FRACTION,
            direction="target",
            target=1.0,
        ),
        Metric(
            name="bias",
            label="bias of rollouts",
            definition="Mean of the rollout minus the recording.",
            formula="mean (f - y)",
            unit="standard deviations of the z-scored recording",
            direction="target",
            target=0.0,
        ),
        Metric(
            name="autocorrelated_fraction",
            label="fraction of features with autocorrelated residuals",
            definition="Fraction of features whose forecast errors one time point ahead are autocorrelated by a "
            f"portmanteau test that is robust to changing variance ({WHITENESS_LAGS} lags, p < {WHITENESS_ALPHA}); "
            f"white errors give {WHITENESS_ALPHA}.",
            formula=f"mean over features of [p < {WHITENESS_ALPHA}]",
            unit=_FRACTION,
            direction="lower",
        ),
        Metric(
            name="portmanteau",
            label="robust portmanteau statistic",
            definition="Median over features of the robust portmanteau statistic of the forecast errors e one time "
            # Of a chi-squared variable with k degrees of freedom the median is about k - 2/3.
            f"point ahead; white errors give about {WHITENESS_LAGS - 2 / 3:.1f}.",
            formula=f"Q = sum over k = 1..{WHITENESS_LAGS} of (sum_t e_t e_(t-k))^2 / sum_t (e_t e_(t-k))^2",
            unit=_FRACTION,
            direction="lower",
        ),
    )
}
"""Every metric of the tables, by name."""

REFERENCES = {name: metric.reference for name, metric in METRICS_BY_NAME.items() if metric.reference is not None}
"""Each skill, and the baseline that it is measured against."""
CORRELATIONS = ("r", "pattern_r")
"""Metrics that are averaged on Fisher's scale."""
METRICS = (*REFERENCES, *CORRELATIONS)
"""Metrics of the forecast table, in its order."""
ROLLOUT_METRICS = ("skill_ar", "r2", "variance_ratio", "bias")
RESIDUAL_METRICS = ("autocorrelated_fraction", "portmanteau")
CEILING_METRICS = ("r2", "skill_ar")

STIMULUS_LOCKED, TEST_RETEST = "stimulus-locked", "test-retest"
CEILINGS = {
    STIMULUS_LOCKED: "from the leave-one-subject-out intersubject correlation (ISC)",
    TEST_RETEST: "from segments that were shown twice to one subject",
}
"""Noise ceilings, and what each is estimated from."""

PROTOCOLS = {
    "run": "held-out runs; the model was trained on other runs of the same subjects",
    "subject": "held-out subjects; the model was trained on other subjects who saw the same stimulus",
    "strict": "held-out subjects and held-out runs; the model was trained on neither the subject nor the run",
}
"""What the test runs don't share with the training runs, by protocol."""

ABOVE_ZERO = "A difference above 0 means that the model needs what the row lacks."
"""Direction of every difference of the study's model from a row without one of its parts."""
FEW_SUBJECTS = 5
"""With fewer, the bootstrap can't reach far enough to cover 95 %: numbers are described, and nothing is claimed."""
SMALLEST_EFFECT = 0.001
"""A part whose mean difference is smaller adds nothing, whatever its interval."""
ADDS, NOTHING, HARMS, UNKNOWN = "adds", "adds nothing", "harms", "not known"
EFFECTS = {
    ADDS: f"{ADDS}: the mean difference is at least {SMALLEST_EFFECT}, and its whole interval lies above 0",
    HARMS: f"{HARMS}: it is at most -{SMALLEST_EFFECT}, and its whole interval lies below 0",
    NOTHING: f"{NOTHING}: neither",
    UNKNOWN: f"{UNKNOWN}: with fewer than three subjects there is no interval",
}
"""Effects of a part on the forecast, each with its rule. The rule takes all lead times together."""


def effect_of(mean: float, low: float, high: float) -> str:
    """Judge a mean difference by its 95 % interval: the key of `EFFECTS` whose rule it meets."""
    if math.isnan(low):
        return UNKNOWN
    if low > 0 and mean >= SMALLEST_EFFECT:
        return ADDS
    return HARMS if high < 0 and mean <= -SMALLEST_EFFECT else NOTHING


COLUMNS = {
    "model": "Name of the forecaster.",
    "kind": "; ".join(
        (
            "model: the study's own",
            f"control: {_CONTROL}",
            "comparison_model: another network of the same size, trained in the same way",
            "baseline: a closed-form forecaster",
            "oracle_reference: is given the true stimulus position, and is not a forecast.",
        )
    ),
    "subject": "Label of the subject.",
    LEAD_TIME_POINTS: "Lead time h of the forecast, in time points.",
    LEAD_TIME_S: "Lead time of the forecast, in seconds.",
    "protocol": "What the test runs don't share with the training runs: the subject, the run, or (strict) both.",
    "n_subjects": "Number of test subjects.",
    "n_runs": "Number of test runs.",
    "n_time_points": "Number of scored time points over all runs, in the seed with the fewest.",
    "n_seeds": "Number of seeds. Each seed trains its own models and draws its own offsets.",
    "n_targets": "Number of scored time points that a rollout reached, over all runs, in the seed with the fewest.",
    "skill_ar_seed_sd": "Standard deviation over seeds of the mean skill_ar over subjects; n/a with one seed.",
    "compared_with": "Row that the forecaster is compared with.",
    "difference": "Mean over subjects of skill_ar of the forecaster minus that of the row that it is compared with. "
    "Above 0: the forecaster is better.",
    "mean_difference": "Mean over lead times and subjects of skill_ar of the study's model minus that of the row that "
    "it is compared with. " + ABOVE_ZERO,
    "effect": "What the part that this row lacks does to the forecast. " + "; ".join(EFFECTS.values()) + ".",
    "ceiling": "Noise ceiling. " + "; ".join(f"{name}: {source}" for name, source in CEILINGS.items()) + ".",
}
"""Description of each column that is not a metric."""

_ENDS = {"low": "Lower", "high": "Upper"}


def interval_columns(metrics: Iterable[str]) -> tuple[str, ...]:
    """Columns of metrics with the ends of their 95 % intervals: ``skill_ar``, ``skill_ar_low``, ``skill_ar_high``."""
    return tuple(f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high"))


def describe_column(column: str) -> dict[str, str]:
    """BIDS metadata of a table's column: ``Description``, of a metric also ``LongName`` and ``Units``.

    Raises
    ------
    KeyError
        No table has such a column.
    """
    if column in METRICS_BY_NAME:
        metric = METRICS_BY_NAME[column]
        return {
            "LongName": metric.label,
            "Description": f"{metric.definition} {metric.formula}; {metric.direction_in_words}.",
            "Units": metric.unit,
        }
    name, _, end = column.rpartition("_")
    if name in {*METRICS_BY_NAME, "difference", "mean_difference"} and end in _ENDS:
        return {"Description": f"{_ENDS[end]} end of the 95 % interval of {name}; n/a with fewer than three subjects."}
    return {"Description": COLUMNS[column]}


def count_in_words(count: int, noun: str) -> str:
    """``1 subject``, ``6 subjects``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def lead_time_in_words(time_points: int, seconds: float) -> str:
    """``6 time points (9 s)``."""
    return f"{count_in_words(time_points, 'time point')} ({seconds:g} s)"
