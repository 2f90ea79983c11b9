"""The studies of ``pipelines/``: where their data come from and go to, and the command that runs each."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from titan_neuro.errors import ConfigError, InputNotFoundError, near_miss
from titan_neuro.files import writing_to

_FILE = "studies.yaml"
_PATHS = ("bids_dir", "output_dir", "settings")
_LISTS = ("set", "simulate", "fetch", "prepare")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One study of the workflow; ``pipelines/studies.yaml`` says what each part is.

    Attributes
    ----------
    name, about : str
    settings, bids_dir, output_dir : Path
        Absolute.
    set : tuple of str
        Settings over those of the file.
    source : str or None
        None where nothing is fetched.
    simulate : tuple of str or None
        None where nothing is simulated: always, where nothing is fetched.
    fetch, prepare : tuple of str
        Flags of these subcommands.
    """

    name: str
    about: str = ""
    settings: Path
    bids_dir: Path
    output_dir: Path
    set: tuple[str, ...] = ()
    source: str | None = None
    simulate: tuple[str, ...] | None = None
    fetch: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()


def find_pipelines() -> Path | None:
    """Return the folder with the workflow: the checkout's, else the installation's; None where there is neither."""
    places = (Path(__file__).resolve().parents[2] / "pipelines", Path(sys.prefix, "share", "titan-neuro", "pipelines"))
    return next((place for place in places if (place / _FILE).is_file()), None)


def load_pipeline(folder: Path, given: Mapping[str, Any]) -> Pipeline:
    """Put a study together: what ``studies.yaml`` says, and what was given over it.

    Parameters
    ----------
    folder : Path
        That of ``studies.yaml``.
    given : mapping
        ``study``, its name, and parts that replace the file's: what follows Snakemake's ``--config``.

    Raises
    ------
    ConfigError
        No study is named, or an unknown one, or an unknown part, or one of another kind.
    InputNotFoundError
        The dataset, or the file of settings, is not there.
    """
    # Snakemake hands on the word.
    studies, given = _read(folder), {part: None if value == "null" else value for part, value in given.items()}
    name = given.pop("study", None)
    if name not in studies:
        said = "no study is named" if name is None else f"no study {name!r}.{near_miss(str(name), studies)}"
        raise ConfigError(f"{folder / _FILE}: {said}", f"Name one with --config study=NAME: {', '.join(studies)}.")
    written = studies[name]
    for where, parts in ((f"{folder / _FILE}: {name}", written), ("--config", given)):
        _check(where, parts)
    if "bids_dir" in written and "source" not in written:
        written = {**written, "bids_dir": folder.parent / written["bids_dir"]}
    parts = {"settings": folder / f"{name}.yaml", **written, **given}
    if parts.get("source") is None:
        # What is simulated is fetched from there; the user's own dataset is neither.
        parts["simulate"] = None
    paths = {part: Path.cwd() / Path(parts[part]).expanduser() for part in _PATHS}
    lists = {part: tuple(map(str, parts[part])) for part in _LISTS if parts.get(part) is not None}
    pipeline = Pipeline(**{**parts, "name": name, **paths, **lists})
    if not pipeline.settings.is_file():
        raise InputNotFoundError(f"{pipeline.settings}: no such file (settings of study {name}).")
    if pipeline.source is None and not pipeline.bids_dir.is_dir():
        raise InputNotFoundError(
            f"{pipeline.bids_dir}: no such folder (bids_dir of study {name}, which is not fetched).",
            "Name the BIDS dataset with --config bids_dir=DIR, or with source=WHERE where it comes from.",
        )
    return pipeline


def plain_path(path: Path) -> str:
    """Return a path that Snakemake reads as it is: it takes ``{x}`` in the name of a file for a wildcard.

    Parameters
    ----------
    path : Path
        Of a file, or of a folder, which is made where it is missing and its path has braces; absolute.

    Returns
    -------
    str
        Its own path; where that has braces, the path of a link to it in ``.snakemake``, relative to the current folder,
        which every job of the workflow has.

    Raises
    ------
    OutputError
        The folder, or the link, can't be made.
    """
    if not set(str(path)) & set("{}"):
        return str(path)
    link = Path(".snakemake", "plain", hashlib.sha256(os.fsencode(path)).hexdigest()[:16])
    with writing_to(path):
        if not path.is_file():
            path.mkdir(parents=True, exist_ok=True)
    with writing_to(link), contextlib.suppress(FileExistsError):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return str(link)


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    import yaml

    return dict(yaml.safe_load((folder / _FILE).read_text(encoding="utf-8")))


def _check(where: str, parts: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(Pipeline) if field.name != "name"]
    for part, value in parts.items():
        if part not in known:
            raise ConfigError(
                f"{where}: unknown part {part!r}.{near_miss(part, known)}", f"There are: {', '.join(known)}."
            )
        if part in _LISTS and not isinstance(value, list | None):
            raise ConfigError(
                f"{where}: {part}: expected a list, found {value!r}.", f"Write it as {part}='[ONE, ANOTHER]'."
            )


def describe_pipelines() -> str:
    """Say for each study what it is and the command that runs it, as text for the help."""
    folder = find_pipelines()
    if folder is None:
        return "The workflow of whole studies (pipelines/) is not installed here; it is in the project's repository."
    program = Path(sys.executable).with_name("snakemake")
    if not program.is_file():
        return f"Whole studies, by the workflow in {folder}: install it with `pip install 'titan-neuro[pipelines]'`."
    # Its bare name is enough where it is what the shell would find.
    name = "snakemake" if shutil.which("snakemake") == str(program) else str(program)
    command = [name, "--snakefile", str(folder / "Snakefile"), "--profile", str(folder / "profiles" / "local")]
    lines = ["whole studies, with every step (on a Slurm cluster: profiles/slurm instead of profiles/local):"]
    for study, parts in _read(folder).items():
        config = [f"study={study}"]
        if "source" not in parts and not (folder.parent / parts["bids_dir"]).is_dir():
            config.append("bids_dir=BIDS_DIR")
        lines += [f"  {study}: {parts['about']}", f"    {shlex.join([*command, '--config', *config])}"]
    return "\n".join(lines)
