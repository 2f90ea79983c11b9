"""Blocks of code in Markdown pages."""

import re
import shlex
import textwrap


def blocks(page: str, language: str) -> list[str]:
    """Contents of the fenced blocks of a language, in order."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", page, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(content) for _, content in found]


def commands(page: str) -> list[list[str]]:
    """Arguments of each call of ``titan-neuro`` in the page's shell blocks."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("titan-neuro ")]


def run_python(code: str, names: dict[str, object] | None = None) -> dict[str, object]:
    """Run a block in a namespace, and return the names that it has then."""
    names = {} if names is None else names
    exec(compile(code, "a page", "exec"), names)  # noqa: S102 - our own page
    return names
