"""Mistakes of the user, answered in one sentence: which errors they are, and what tyro has to say."""

import re


def is_mistake(error: ValueError) -> bool:
    """Whether the message of an error says all that its reader needs: whether its class is one of ours.

    (ConfigError, DataError, CheckpointError, ...) They are told by where they are defined, because importing
    them to compare would import JAX, and a mistake is to be answered at once.
    """
    return any(cls.__module__.partition(".")[0] == "partoken_jax" for cls in type(error).__mro__)


def tyro_in_a_sentence(box: str) -> str:
    """What tyro writes into a box of many lines about words that it does not understand.

    The box has sections with rules between them: what is wrong, which flags have similar names (each with its
    help, farther in than its name), where help is.
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
    said = [" ".join(what).rstrip(".")]
    similar = [row.split()[0] for section in others for row in section if row.startswith("--")]
    if similar and not said[0].startswith("Error parsing"):
        said.append(f"did you mean {similar[0]}")
    for section in others:
        if section and section[0].startswith("Available subcommands"):
            said.append(" ".join(section).replace("Available subcommands", "there are"))
    program = re.search(r"(partoken[\w ]*?) --help", text)
    said.append(f"see `{program[1] if program else 'partoken'} --help`")
    return "; ".join(said)
