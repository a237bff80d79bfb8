"""The task pages: a way from the first to the last, whose links, pictures and code are there."""

import re
import subprocess
import sys
from itertools import pairwise

import pages
import pytest
import torch
from teaching.data import DOCS, load
from teaching.figures import FOLDER, drawings, tasks
from teaching.measure import mistakes, start
from torch import nn

import batchnorm as bn

CHAIN = (
    "start",
    "insert",
    "train",
    "diagnose",
    "recalibrate",
    "freeze",
    "small_batches",
    "padding",
    "distributed",
    "memory",
    "fold",
    "ship",
)
BESIDE = ("layer", "convert", "port", "monitor", "examples", "study")
NEW = ("start", "train", "freeze", "small_batches", "padding", "ship")
each_page = pytest.mark.parametrize("name", (*CHAIN, *BESIDE))
each_new_page = pytest.mark.parametrize("name", NEW)
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def read(name):
    return pages.read(f"{name}.md")


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@each_page
def test_a_page_ends_with_what_is_next(name):
    assert pages.headings(read(name))[-1] == "Next"


@pytest.mark.parametrize(("here", "there"), list(pairwise(CHAIN)))
def test_the_chain_is_unbroken(here, there):
    """The first link of the last section leads on."""
    _, _, ending = pages.prose(read(here)).rpartition("## Next")
    assert pages.links(ending)[0][0] == f"{there}.md"


@each_page
def test_links_lead_to_files_and_headings(name):
    assert pages.links(read(name))
    assert pages.broken_links(f"{name}.md", read(name)) == []


def test_a_broken_link_is_seen():
    text = "[a](none.md) [b](train.md#none) [c](train.md#learning-rate) [d](https://x.y)"
    assert pages.broken_links("start.md", text) == ["none.md#", "train.md#none"]


@each_page
def test_images_are_there_and_are_described(name):
    assert pages.poor_images(f"{name}.md", read(name)) == []


def test_an_image_without_words_is_seen():
    text = (
        "![](figures/start.svg) ![A sentence that is long enough for a picture](figures/none.svg)"
    )
    assert pages.poor_images("start.md", text) == ["figures/start.svg", "figures/none.svg"]


@each_page
def test_a_page_begins_with_a_sentence(name):
    title, first, *_ = read(name).split("\n\n")
    assert re.fullmatch("# .*", title)
    assert re.match(r'[A-Z`"]', first)
    assert "." in first


@each_new_page
def test_a_page_has_sessions_a_picture_and_what_can_go_wrong(name):
    text = read(name)
    assert 60 <= len(text.splitlines()) <= 210
    assert ">>> import batchnorm as bn\n" in text
    assert re.search(r"!\[", text)
    assert re.search(r"^## (What can go wrong|Five usual mistakes|Gradients are not)", text, re.M)


def test_the_way_begins_at_the_readme_and_at_the_first_page_of_the_site():
    assert ("start.md", "") in pages.links(pages.read("index.md"))
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert "](docs/start.md)" in readme[: readme.index("## Five lines")]


@pytest.mark.parametrize("name", ["start", "mistakes", "way", "padding"])
def test_a_picture_is_what_its_script_draws(name):
    (drawing,) = (drawing for drawing in drawings() if drawing.name == name)
    assert (FOLDER / f"{name}.svg").read_text(encoding="utf-8") == drawing.document()


def test_the_way_in_the_picture_is_that_of_insert_and_fold():
    kinds = {"Conv2d": nn.Conv2d, "ReLU": nn.ReLU, "Linear": nn.Linear}
    plain = [name for name in tasks.LAYERS if name in kinds]
    made = {
        "Conv2d": lambda: nn.Conv2d(3, 3, 1),
        "ReLU": nn.ReLU,
        "Linear": lambda: nn.Linear(4, 2),
    }
    x = torch.randn(2, 3, 4, 4)
    normalized = bn.insert(nn.Sequential(*(made[name]() for name in plain)), x)
    folded = bn.fold(normalized.eval(), x).model
    names = [type(layer).__name__.removesuffix("2d") for layer in normalized]
    assert names == [name.removesuffix("2d") for name in tasks.LAYERS]
    assert [type(layer).__name__ for layer in folded if type(layer) is not nn.Identity] == plain
    assert folded[0].bias is not None


def test_the_numbers_of_the_padded_picture():
    spread = torch.tensor([-1.0, 1.0]) * tasks.VARIANCE**0.5
    parts = [tasks.MEAN + spread.repeat(50 * length) for length in tasks.LENGTHS]
    padded = torch.cat([torch.cat((p, torch.zeros(1200 - len(p)))) for p in parts])
    share, mean, variance = tasks.seen()
    assert (padded == 0).float().mean().item() == pytest.approx(share)
    assert padded.mean().item() == pytest.approx(mean, rel=1e-5)
    assert padded.var(correction=0).item() == pytest.approx(variance, rel=1e-5)


def test_the_picture_of_the_first_page_is_of_its_network():
    """The seed of the page is one of the record, and ended with what the page prints."""
    text = read("start")
    (seed,) = re.findall(r"manual_seed\((\d)\)", text)
    (said,) = re.findall(r"^without (0\.\d\d), with (0\.\d\d)$", text, re.MULTILINE)
    for arm, number in zip(start.ARMS, said, strict=True):
        found = load("start").one(arm=arm, seed=int(seed), epoch=start.EPOCHS)
        assert found["accuracy"] == pytest.approx(float(number), abs=0.01)
    for part in (f"lr={start.RATE}", f"range({start.EPOCHS})", f"({start.TRAINING}).split(64)"):
        assert part in text


def test_the_record_of_the_first_page_is_measured():
    for row in start.rows(seeds=1):
        found = load("start").one(arm=row["arm"], seed=0, epoch=row["epoch"])
        assert row["accuracy"] == pytest.approx(found["accuracy"], abs=0.05), row


def test_sentences_about_mistakes_rest_on_the_record():
    cost = {
        name: 100 * sum(r["without"] - r["with"] for r in load("mistakes").where(mistake=name)) / 5
        for name in mistakes.MISTAKES
    }
    keras = cost.pop("Keras's momentum, 0.99")
    assert 0.5 < keras < 2  # about a point
    assert all(points > 20 for points in cost.values())


@pytest.mark.parametrize("name", ["evaluated in training mode, three at a time"])
def test_a_mistake_is_measured(name):
    found = load("mistakes").one(mistake=name, seed=0)
    for wrong, field in ((True, "with"), (False, "without")):
        torch.manual_seed(0)
        assert mistakes.MISTAKES[name](wrong) == pytest.approx(found[field], abs=0.05)


def test_two_digits_are_left_for_the_last_batch():
    parts = torch.arange(mistakes.WITH_TWO_LEFT).split(start.BATCH)
    assert [len(part) for part in parts[-2:]] == [start.BATCH, 2]


def test_a_checkpoint_of_parameters_lacks_statistics():
    model = bn.insert(start.network())
    lost = set(model.state_dict()) - set(dict(model.named_parameters()))
    assert {name.rpartition(".")[2] for name in lost} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


@pytest.mark.slow
def test_the_commands_that_ship_are_run(tmp_path):
    blocks = {kind: code for kind, code in FENCED.findall(pages.read("ship.md")) if "title" in kind}
    (tmp_path / "net.py").write_text(blocks['python title="net.py"'])
    save = "import torch, net; torch.save(net.make().state_dict(), 'digits.pt')"
    subprocess.run([sys.executable, "-c", save], cwd=tmp_path, check=True)
    commands = blocks['bash title="needs net.py and digits.pt"'].splitlines()
    for command in commands:
        words = [sys.executable, "-m", *command.split()]
        subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    program = torch.export.load(tmp_path / "digits.pt2").module()
    assert program(torch.zeros(5, 1, 8, 8)).shape == (5, 10)
    folded = torch.load(tmp_path / "folded.pt", weights_only=True)
    assert not any("running" in name for name in folded)


def test_the_file_of_the_page_builds_the_network_of_the_page():
    text = pages.read("ship.md")
    blocks = re.findall(r"nn\.Sequential\(\n(.*?)\n[.\s]*\)\n", text, re.DOTALL)
    session, file = ("".join(re.sub(r"(?m)^\.\.\.", "", block).split()) for block in blocks)
    assert session == file
    assert len(eval(f"nn.Sequential({file})", {"nn": nn})) == 8
