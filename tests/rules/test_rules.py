"""Every example of every rule: before → after, and what a rule leaves alone."""

from __future__ import annotations

import textwrap

import black
import pytest

from codegen.commands import rules_text
from codegen.rules import RULES, Example, Rule, run_example

CASES = [
    pytest.param(rule, example, id=f"{rule.name}-{number}")
    for rule in RULES
    for number, example in enumerate(rule.EXAMPLES)
]


def laid_out(code: str) -> str:
    return black.format_str(textwrap.dedent(code).strip(), mode=black.Mode())


@pytest.mark.parametrize(("rule", "example"), CASES)
def test_a_rules_example_becomes_what_it_shows(
    rule: type[Rule], example: Example
) -> None:
    wanted = example.before if example.after is None else example.after
    assert laid_out(run_example(rule, example.before)) == laid_out(wanted)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule_shows_what_it_changes_and_what_it_leaves(rule: type[Rule]) -> None:
    kept = [e for e in rule.EXAMPLES if e.after is None]
    assert kept, "no example of what the rule leaves alone"
    assert len(kept) < len(rule.EXAMPLES), "no example of what the rule changes"


def test_rules_are_numbered_as_in_the_readme() -> None:
    names = sorted(rule.name for rule in RULES)
    assert names == [f"R{number}" for number in range(1, 9)]
    for rule in RULES:
        assert f"### {rule.name}. {rule.title}" in rules_text()
