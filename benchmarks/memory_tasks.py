"""Recall tasks that attention over a window can't solve, at up to 16 times the training length.

``python benchmarks/memory_tasks.py`` trains every model on one task with one seed, in minutes; ``--full`` computes the
whole table. The models differ only in how they mix tokens: embedding, width, feed-forward part and training are the
same. A window has 8 tokens; the answer is at least 16 tokens back, beyond the reach of the window Transformer's two
layers. "Frozen" is the trained model evaluated without writing into its memory. "Spared" is the trained model evaluated
without writing and forgetting at filler tokens, which no question depends on: an answer that is right only then was
learned and overwritten.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from common import ROOT, provenance, use_one_thread
from torch import Tensor, nn

from titan_neuro.evaluation.formatting import markdown_table
from titan_neuro.files import write_json, write_text
from titan_neuro.titans.layers import FeedForward, NeuralMemory, NeuralMemoryConfig, WindowAttention
from titan_neuro.titans.models import LMMConfig, MACConfig, MAGConfig, MALConfig, TitansLMConfig

N_SYMBOLS, N_KEYS = 16, 16
SEPARATOR = N_SYMBOLS + N_KEYS
VOCABULARY = SEPARATOR + 1
WINDOW, DISTANCE = 8, 16
TRAINING_LENGTH, LENGTHS = 48, (1, 4, 16)
DIM, BATCH_SIZE, LEARNING_RATE = 64, 32, 5e-3
N_EVALUATED = 256
IGNORED = -100
SOLVED = 0.9

Batch = tuple[Tensor, Tensor]


def distinct(generator: torch.Generator, batch: int, n: int, among: int) -> Tensor:
    """Draw `n` different numbers below `among` for each item of the batch."""
    return torch.rand(batch, among, generator=generator).argsort(dim=1)[:, :n]


def key_value_recall(generator: torch.Generator, batch: int, length: int, n: int = 6) -> Batch:
    """Pairs of key and value, filler, and the keys again in another order: predict the values."""
    keys, order = distinct(generator, batch, n, N_KEYS) + N_SYMBOLS, distinct(generator, batch, n, n)
    values = torch.randint(N_SYMBOLS, (batch, n), generator=generator)
    filler = torch.randint(N_SYMBOLS, (batch, length - 3 * n), generator=generator)
    ids = torch.cat([torch.stack([keys, values], dim=2).flatten(1), filler, keys.gather(1, order)], dim=1)
    return ids, asked(ids, values.gather(1, order))


def copy(generator: torch.Generator, batch: int, length: int, n: int = 20) -> Batch:
    """A row of different symbols, separators, and the row again: predict each next symbol, from the second on."""
    row = distinct(generator, batch, n, SEPARATOR)
    filler = torch.full((batch, max(1, length - 2 * n)), SEPARATOR)
    ids = torch.cat([row, filler, row], dim=1)[:, :-1]
    return ids, asked(ids, row[:, 1:])


def induction_heads(generator: torch.Generator, batch: int, length: int) -> Batch:
    """Random symbols with one special token, and the special token again: predict the symbol that followed it."""
    ids = torch.randint(N_SYMBOLS, (batch, length), generator=generator)
    place = torch.randint(length - DISTANCE - 2, (batch, 1), generator=generator)
    ids.scatter_(1, place, SEPARATOR)
    ids[:, -1] = SEPARATOR
    return ids, asked(ids, ids.gather(1, place + 1))


def needle(generator: torch.Generator, batch: int, length: int, n: int = 4) -> Batch:
    """Four keys at random positions, each followed by a value; at the end all four keys: predict the values."""
    ids = torch.randint(N_SYMBOLS, (batch, length), generator=generator)
    places = 2 * distinct(generator, batch, n, (length - DISTANCE - n) // 2)
    keys, order = distinct(generator, batch, n, N_KEYS // 2) + N_SYMBOLS, distinct(generator, batch, n, n)
    ids.scatter_(1, places, keys)
    ids[:, -n:] = keys.gather(1, order)
    return ids, asked(ids, ids.gather(1, places + 1).gather(1, order))


def asked(ids: Tensor, answers: Tensor) -> Tensor:
    """Targets, ``(batch, tokens)``: `answers` at the last tokens, ignored elsewhere."""
    targets = torch.full_like(ids, IGNORED)
    targets[:, -answers.shape[1] :] = answers
    return targets


TASKS: dict[str, Callable[[torch.Generator, int, int], Batch]] = {
    "key-value recall": key_value_recall,
    "copy": copy,
    "induction heads": induction_heads,
    "needle": needle,
}


class WindowTransformer(nn.Module):
    """The control: two layers of attention over the window, no memory, and no fewer parameters than any model here."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, DIM)
        nn.init.normal_(self.embedding.weight, std=DIM**-0.5)
        self.attention = nn.ModuleList(
            WindowAttention(DIM, n_heads=2, n_persistent=4, tokens_per_time_point=1, window_time_points=WINDOW)
            for _ in range(2)
        )
        self.feed_forward = nn.ModuleList(FeedForward(DIM, width=2 * DIM) for _ in range(2))
        self.norms = nn.ModuleList(nn.RMSNorm(DIM, eps=1e-5) for _ in range(5))

    def forward(self, ids: Tensor, *, memory_frozen: bool = False) -> Tensor:
        """Token ids to logits; there is no memory to freeze."""
        x = self.embedding(ids)
        for layer, (attention, feed_forward) in enumerate(zip(self.attention, self.feed_forward, strict=True)):
            x = x + attention(self.norms[2 * layer](x), attention.init_state(len(ids)))[0]
            x = x + feed_forward(self.norms[2 * layer + 1](x))
        return F.linear(self.norms[-1](x), self.embedding.weight)


def build(name: str) -> nn.Module:
    """Make a model by its name in the table."""
    memory = NeuralMemoryConfig(n_heads=2, depth=1, chunk_time_points=WINDOW)
    shared = {"dim": DIM, "n_layers": 1, "memory": memory}
    attending = {**shared, "n_heads": 2}
    configs = {
        "LMM": lambda: LMMConfig(**shared),
        "MAC": lambda: MACConfig(**attending, segment_time_points=WINDOW),
        "MAG": lambda: MAGConfig(**attending, window_time_points=WINDOW),
        "MAL": lambda: MALConfig(**attending, window_time_points=WINDOW),
    }
    if name == WINDOW_MODEL:
        return WindowTransformer()
    return TitansLMConfig(vocab_size=VOCABULARY, backbone=configs[name]()).build()


WITH_MEMORY = ("LMM", "MAC", "MAG", "MAL")
WINDOW_MODEL = "window"
MODELS = (*WITH_MEMORY, WINDOW_MODEL)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training."""

    task: str
    model: str
    seed: int
    n_steps: int


def run(trial: Trial) -> dict[str, object]:
    """Train on sequences of 3/4 to 1 time the training length, and score at every length.

    Returns
    -------
    dict
        The trial, ``accuracy`` by length, ``frozen`` and ``spared`` (the same with a frozen memory, and with filler
        left out of it), ``n_parameters`` and ``cpu_s``.
    """
    use_one_thread()
    torch.manual_seed(trial.seed)
    start = time.process_time()
    model, make = build(trial.model), TASKS[trial.task]
    generator = torch.Generator().manual_seed(trial.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, trial.n_steps))
    for _ in range(trial.n_steps):
        length = int(torch.randint(3 * TRAINING_LENGTH // 4, TRAINING_LENGTH + 1, (1,), generator=generator))
        ids, targets = make(generator, BATCH_SIZE, length)
        logits = model(ids)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return {
        **dataclasses.asdict(trial),
        "accuracy": {str(factor): accuracy(model, make, factor * TRAINING_LENGTH) for factor in LENGTHS},
        "frozen": {str(factor): accuracy(model, make, factor * TRAINING_LENGTH, frozen=True) for factor in LENGTHS},
        "spared": {str(factor): accuracy(model, make, factor * TRAINING_LENGTH, spared=True) for factor in LENGTHS},
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cpu_s": round(time.process_time() - start, 1),
    }


def _rate(step: int, n_steps: int) -> float:
    return min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / n_steps))


@torch.inference_mode()
def accuracy(
    model: nn.Module, make: Callable[..., Batch], length: int, *, frozen: bool = False, spared: bool = False
) -> float:
    """Fraction of right answers, on sequences that were not trained on."""
    generator, n_right, n_asked = torch.Generator().manual_seed(10_000), 0, 0
    for _ in range(N_EVALUATED // BATCH_SIZE):
        ids, targets = make(generator, BATCH_SIZE, length)
        is_asked = targets != IGNORED
        with closed_gates(model, is_filler(ids, targets)) if spared else contextlib.nullcontext():
            answers = model(ids, memory_frozen=frozen).argmax(-1)
        n_right += int((answers == targets)[is_asked].sum())
        n_asked += int(is_asked.sum())
    return n_right / n_asked


def is_filler(ids: Tensor, targets: Tensor) -> Tensor:
    """Tokens that no question depends on: neither a question nor the key, its value or the token after it."""
    is_question = targets != IGNORED
    questions = ids[is_question].view(len(ids), 1, -1)
    is_key = (ids.unsqueeze(-1) == questions).any(-1) & ~is_question
    is_needed = is_key.clone()
    is_needed[:, 1:] |= is_key[:, :-1]
    is_needed[:, 2:] |= is_key[:, :-2]
    return ~(is_needed | is_question)


@contextlib.contextmanager
def closed_gates(model: nn.Module, places: Tensor) -> Iterator[None]:
    """At `places`, bool ``(batch, tokens)``, close the gates of forgetting and step size of all memories."""
    memories = [module for module in model.modules() if isinstance(module, NeuralMemory)]
    if memories and isinstance(model.backbone.config, MALConfig):
        # This memory reads the persistent tokens first.
        places = F.pad(places, (model.backbone.config.n_persistent, 0))
    hooks = [memory.gates.register_forward_hook(_close_gates(places)) for memory in memories]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _close_gates(places: Tensor) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    position = 0

    def close(_: nn.Module, __: tuple[Tensor], logits: Tensor) -> Tensor:
        nonlocal position
        shut = places[:, position : position + logits.shape[1]].unsqueeze(-1)
        position += logits.shape[1]
        alpha, eta, theta = logits.chunk(3, dim=-1)
        return torch.cat([alpha.masked_fill(shut, -torch.inf), eta, theta.masked_fill(shut, -torch.inf)], dim=-1)

    return close


def table(results: list[dict]) -> str:
    """Mean accuracy over the seeds, the minimum in brackets; bold where every seed solves the task."""
    columns = [(name, "accuracy", name) for name in MODELS]
    columns += [(name, kind, f"{name} {kind}") for kind in ("frozen", "spared") for name in WITH_MEMORY]
    header, lines = ["task", "length", *(title for _, _, title in columns)], []
    for task in dict.fromkeys(result["task"] for result in results):
        for factor in map(str, LENGTHS):
            cells = []
            for model, kind, _ in columns:
                cells.append(_cell([r[kind][factor] for r in results if (r["task"], r["model"]) == (task, model)]))
            lines.append([task, f"{factor} x", *cells])
    return markdown_table(header, lines)


def _cell(accuracies: list[float]) -> str:
    if not accuracies:
        return "-"
    text = f"{sum(accuracies) / len(accuracies):.2f} ({min(accuracies):.2f})"
    return f"**{text}**" if min(accuracies) >= SOLVED else text


def main(arguments: list[str]) -> None:
    """Train, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every task, three seeds (half an hour of one core)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="by default the needle; with --full all")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--seeds", type=int, help="number of seeds (default: 1; with --full 3)")
    parser.add_argument("--steps", type=int, default=1200, help="training steps (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/memory_tasks.json")
    options = parser.parse_args(arguments)
    tasks = options.tasks or (list(TASKS) if options.full else ["needle"])
    seeds = range(options.seeds or (3 if options.full else 1))
    trials = [Trial(task, model, seed, options.steps) for seed in seeds for task in tasks for model in options.models]
    metadata = provenance(arguments) | {
        "training": f"{options.steps} steps of {BATCH_SIZE} sequences of {TRAINING_LENGTH} tokens, {len(seeds)} seeds",
        "window": f"{WINDOW} tokens; the answer is at least {DISTANCE} tokens back",
        "chance": f"{1 / N_SYMBOLS:.2f}; copy {1 / SEPARATOR:.2f}",
    }
    results: list[dict] = []
    for result in _run_all(trials, options.processes):
        results.append(result)
        # Written after each trial, so that a stopped run keeps its results.
        write(options.output, metadata, results)
    print(table(results))


def write(target: Path, metadata: dict, results: list[dict]) -> None:
    """Write JSON, and Markdown beside it, each under a temporary name first."""
    sizes = {result["model"]: result["n_parameters"] for result in results}
    lines = "\n".join(f"- {name}: {value}" for name, value in (metadata | {"parameters": sizes}).items())
    note = f"Fraction of right answers: mean over the seeds, minimum in brackets; bold where no seed is below {SOLVED}."
    write_json(target, {**metadata, "results": results})
    write_text(target.with_suffix(".md"), f"# Recall tasks\n\n{lines}\n\n{note}\n\n{table(results)}\n")


def _run_all(trials: list[Trial], n_processes: int) -> Iterable[dict]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(n_processes) as pool:
        for result in pool.imap(run, trials):
            print(f"{result['task']}, {result['model']}, seed {result['seed']}: {result['accuracy']}", flush=True)
            yield result


if __name__ == "__main__":
    main(sys.argv[1:])
