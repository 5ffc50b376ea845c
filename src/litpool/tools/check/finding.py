"""A finding: one line of the table that `check` prints."""

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Args:
        name: What was checked.
        status: Whether it is as it should be.
        message: What the check saw; examples follow, each on its own line.
        advice: What to do, in one sentence; empty if all is well.
        figures: The numbers behind the message.
    """

    name: str
    status: Status
    message: str
    advice: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def problem_if(
    bad: bool,
    name: str,
    message: str,
    advice: str,
    figures: dict[str, Any],
    status: Status = "warning",
) -> Finding:
    """Return a finding that has `status` and the advice if `bad`, and is ok otherwise."""
    if bad:
        return Finding(name, status, message, advice, figures)
    return Finding(name, "ok", message, "", figures)
