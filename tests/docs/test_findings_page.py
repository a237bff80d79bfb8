"""Every finding leads to its section of docs/findings.md, and every section is of a rule."""

import ast
import dataclasses
import inspect
import json
import re
import sys
from pathlib import Path

import pages
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.cli.findings import print_diagnosis
from batchnorm.diagnosis import rules
from batchnorm.records import DiagnosisResult, Finding, from_json, to_json
from batchnorm.records.diagnosis import SEVERITIES
from batchnorm.report.diagnosis_page import render_diagnosis

sys.path.insert(0, str(Path(__file__).parents[1] / "diagnosis"))
from planted import FAULTS

TEXT = pages.read("findings.md")
SECTIONS = pages.sections(TEXT)
MODULES = {rule.__module__.rpartition(".")[2]: sys.modules[rule.__module__] for rule in rules.RULES}
PARTS = ("What it says", "Why it matters", "How it is decided", "What to do")
TABLE = {
    name: (anchor, severities.split(", "), planted.replace("`", "").split(", "))
    for name, anchor, severities, planted in re.findall(
        r"^\| \[`(\w+)`\]\(#(\w+)\) \| ([a-z, ]+) \| (.*) \|$", TEXT, re.MULTILINE
    )
}


def strings(module):
    """Every text in the code of a rule."""
    tree = ast.parse(inspect.getsource(module))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def named(module):
    """What a rule calls its findings."""
    tree = ast.parse(inspect.getsource(module))
    return {
        ast.literal_eval(keyword.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "rule"
    }


def test_rules_and_anchors_are_one_to_one():
    files = Path(rules.__file__).parent.glob("*.py")
    assert {file.stem for file in files} - {"__init__"} == set(MODULES)
    assert sorted(pages.anchors(TEXT)) == sorted(MODULES)  # each once
    assert {heading for heading, _ in SECTIONS.values()} == set(MODULES)
    assert all(anchor == heading for anchor, (heading, _) in SECTIONS.items())
    assert sorted(TABLE) == sorted(MODULES)
    assert all(anchor == name for name, (anchor, _, _) in TABLE.items())


@pytest.mark.parametrize("name", MODULES)
def test_the_findings_of_a_rule_have_its_name_and_so_its_anchor(name):
    assert named(MODULES[name]) == {name}
    page = Finding(name, "1", "error", "", "", "", "").page
    file, _, anchor = page.partition("#")
    assert anchor in pages.anchors((pages.DOCS.parent / file).read_text("utf-8"))


@pytest.mark.parametrize("name", MODULES)
def test_a_section_says_all_there_is_to_say(name):
    _, body = SECTIONS[name]
    assert [p for p in PARTS if f"\n**{p}.** " in f"\n{body}"] == list(PARTS)


@pytest.mark.parametrize("name", MODULES)
def test_severities_are_those_of_the_code(name):
    assert set(TABLE[name][1]) == strings(MODULES[name]) & set(SEVERITIES)


@pytest.mark.parametrize("name", MODULES)
def test_thresholds_are_those_of_the_code(name):
    """Every number that a rule has at its top stands in the section, as it is or in percent."""
    decided = SECTIONS[name][1].partition("**How it is decided.**")[2].partition("**What to")[0]
    said = {float(n) for n in re.findall(r"\d+(?:\.\d+)?", decided.replace("a fifth", "0.2"))}
    numbers = {
        key: value
        for key, value in vars(MODULES[name]).items()
        if key.isupper() and isinstance(value, int | float)
    }
    lacking = {k: v for k, v in numbers.items() if not {float(v), round(100 * v, 9)} & said}
    assert not lacking


@pytest.mark.parametrize("name", MODULES)
def test_the_planted_mistakes_are_of_the_rule(name):
    for planted in TABLE[name][2]:
        fault = FAULTS[planted]
        assert fault.cause if name == "train_eval_gap" else fault.rule == name
    if name != "train_eval_gap":
        assert set(TABLE[name][2]) == {f.name for f in FAULTS.values() if f.rule == name}


def test_examples_show_the_rules():
    """What an example prints is a test of the page; here it is counted."""
    shown = [
        name
        for name, (_, body) in SECTIONS.items()
        if re.search(rf'^>>> found\("{name}", .*\n(error|warning|information): ', body, re.M)
    ]
    assert len(shown) >= 25


def test_links_lead_somewhere():
    assert pages.broken_links("findings.md", TEXT) == []


def test_the_other_page_about_rules_leads_here():
    assert "](findings.md" in pages.read("diagnose.md")
    for name in re.findall(r"^\| \[`(\w+)`\]\(findings\.md#\1\)", pages.read("diagnose.md"), re.M):
        assert name in MODULES


def test_the_last_section_is_next():
    assert re.findall(r"^## (.*)$", TEXT, re.MULTILINE)[-1] == "Next"


@pytest.fixture(scope="module")
def diagnosis():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), bn.BatchNorm1d(6), bn.BatchNorm1d(6), nn.Linear(6, 2))
    return bn.diagnose(model, [3 + torch.randn(32, 4) for _ in range(4)], progress=False)


def test_a_finding_says_where_to_read_on(diagnosis):
    for finding in diagnosis.findings:
        assert finding.page == f"docs/findings.md#{finding.rule}"
        assert str(finding).splitlines()[-1] == f"    see: {finding.page}"
        assert f"page={finding.page!r}" in repr(finding)
    assert len({finding.rule for finding in diagnosis.findings}) > 1
    assert f"see: docs/findings.md#{diagnosis.findings[0].rule}" in str(diagnosis)


def test_the_terminal_the_page_and_the_json_name_it(diagnosis, capsys):
    pages_found = {finding.page for finding in diagnosis.findings}
    print_diagnosis(diagnosis.result, [], as_json=False)
    printed = capsys.readouterr().out
    assert {line[7:] for line in printed.splitlines() if line.startswith("  see: ")} == pages_found
    print_diagnosis(diagnosis.result, [], as_json=True)
    assert {f["page"] for f in json.loads(capsys.readouterr().out)["findings"]} == pages_found
    drawn = render_diagnosis(diagnosis.result)
    assert all(f"see {page}</p>" in drawn for page in pages_found)


def test_records_from_before_are_read_and_get_it(diagnosis):
    text = to_json(diagnosis.result)
    assert from_json(DiagnosisResult, text) == diagnosis.result
    older = json.loads(text)
    for finding in older["findings"]:
        del finding["page"]
    assert from_json(DiagnosisResult, json.dumps(older)) == diagnosis.result


def test_the_page_is_always_that_of_the_rule():
    finding = Finding("tiny_batch", "1", "error", "", "", "", "", page="elsewhere")
    assert finding.page == "docs/findings.md#tiny_batch"
    assert dataclasses.replace(finding, rule="bias_before").page == "docs/findings.md#bias_before"
