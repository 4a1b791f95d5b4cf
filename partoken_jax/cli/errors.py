"""Mistakes of the user, answered in one sentence: which errors they are, and what tyro has to say."""

import difflib
import re


def is_mistake(error: ValueError) -> bool:
    """Whether the message of an error says all that its reader needs: whether its class is one of ours.

    (ConfigError, DataError, CheckpointError, ...) They are told by where they are defined, because importing
    them to compare would import JAX, and a mistake is to be answered at once.
    """
    return any(cls.__module__.partition(".")[0] == "partoken_jax" for cls in type(error).__mro__)


def tyro_in_a_sentence(box: str, program: str) -> str:
    """What tyro writes into a box of many lines about words that it does not understand.

    The box has sections with rules between them: what is wrong, then which flags have similar names, each
    with its help farther in than its name.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = text.strip("\n").splitlines()
    # Where the terminal has no lines to draw with, a title and a rule stand in place of the frame.
    framed = any(line.startswith("│") for line in lines)
    rows = [line[1:-1].rstrip() for line in lines if line.startswith("│")] if framed else lines[2:]
    sections: list[list[str]] = [[]]
    for row in rows:
        if row.strip() and set(row.strip()) in ({"─"}, {"-"}):
            sections.append([])
        elif len(row) - len(row.lstrip()) < 8:  # farther in is help
            sections[-1].append(row.strip())
    what, *others = sections
    if "" in what:  # after an empty row comes advice
        what = what[: what.index("")]
    said = (
        " ".join(what)
        .rstrip(".")
        .replace(". Expected", "; expected")
        .replace("expected 1 values", "expected 1 value")
    )
    wrong = re.findall(r"--[\w.-]+", said)
    similar = [row.split()[0] for section in others for row in section if row.startswith("--")]
    if wrong and similar and wrong[0] not in similar:
        nearest = difflib.get_close_matches(wrong[0], similar, 1, 0)
        said += f"; perhaps {nearest[0]} is meant"
    for section in others:
        if section and section[0].startswith("Available subcommands"):
            said += "; " + " ".join(section).replace("Available subcommands:", "there are")
    return f"{said}; see `{program} --help`"
