"""Findings read alike: the answer, one figure, at most five claims, the command, and all else in an appendix.

The rule for each page of docs/findings but its index:

* The first paragraph after the title is the answer: at most 60 words in at most three sentences.
* The part before ``## Appendix`` (the whole page where there is none) has an image, and it stands before the first bullet.
* That part has at most five bullets ("*", "-" or "1.", nested ones too).
* That part has a code block, fenced or indented, with ``python benchmark.py`` or ``python benchmarks/``.

And for each page of docs/, docs/findings and the README: no line of prose over 160 characters. Tables and code blocks are
exempt.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FINDINGS = sorted(path for path in (ROOT / "docs" / "findings").glob("*.md") if path.name != "README.md")
PROSE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "findings").glob("*.md"))]

BULLET = re.compile(r"\s*([*+-]|\d+\.)\s")
COMMAND = re.compile(r"python benchmark(\.py|s/)")


def prose_and_code(text):
    """Lines outside code blocks, numbered from one, and the lines of code blocks (fenced, or indented after a blank line)."""
    prose, code = [], []
    fenced = indented = False
    before = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced:
            code.append(line)
        else:
            indented = line.startswith("    ") and not BULLET.match(line) and (indented or not before.strip())
            if indented:
                code.append(line)
            else:
                prose.append((number, line))
        before = line
    return prose, code


def faults(text):
    """What is wrong with the form of a page of findings, a phrase each; empty if nothing is."""
    top = re.split(r"^## Appendix\s*$", text, maxsplit=1, flags=re.MULTILINE)[0]
    prose, code = prose_and_code(top)
    lines = [line for _, line in prose]
    found = []
    if not lines or not lines[0].startswith("# "):
        return ["no title in the first line"]
    answer = "\n".join(lines[1:]).strip().split("\n\n")[0]
    if answer.startswith(("!", "#", "|")) or BULLET.match(answer):
        found.append("the title is not followed by a paragraph")
    words = len(answer.split())
    if words > 60:
        found.append(f"the answer has {words} words, at most 60")
    sentences = len(re.findall(r"[.!?][*_)]*(?=\s|$)", answer))
    if sentences > 3:
        found.append(f"the answer has {sentences} sentences, at most 3")
    images = [place for place, line in enumerate(lines) if line.startswith("![")]
    bullets = [place for place, line in enumerate(lines) if BULLET.match(line)]
    if not images:
        found.append("no image before the appendix")
    elif bullets and bullets[0] < images[0]:
        found.append("a bullet before the first image")
    if len(bullets) > 5:
        found.append(f"{len(bullets)} bullets before the appendix, at most 5")
    if not any(COMMAND.search(line) for line in code):
        found.append("no code block with the command before the appendix")
    return found


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.stem)
def test_a_page_of_findings_opens_with_its_answer(path):
    found = faults(path.read_text(encoding="utf-8"))
    assert not found, "; ".join(found)


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_of_prose_are_short(path):
    prose, _ = prose_and_code(path.read_text(encoding="utf-8"))
    long = [number for number, line in prose if len(line) > 160 and not line.lstrip().startswith("|")]
    assert not long, f"lines over 160 characters: {long}"


GOOD = """# Does it hold?

It holds. It is 1.5 e-3 (95% interval 1 to 2).

![It](it.png)

* One.

```bash
python benchmark.py --exp it
```
"""


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("It holds.", "It holds. " + "word " * 60, "words"),
        ("It holds.", "It holds. So. It. Does.", "sentences"),
        ("It holds.", "| It holds.", "not followed by a paragraph"),
        ("![It](it.png)", "", "no image"),
        ("![It](it.png)", "* Zero.\n\n![It](it.png)", "before the first image"),
        ("* One.", "* One.\n" * 6, "6 bullets"),
        ("* One.", "## Appendix", "no code block"),
        ("```bash\npython benchmark.py", "```bash\necho", "no code block"),
        ("# Does", "Does", "no title"),
    ],
)
def test_the_rule_sees_each_fault(old, new, fault):
    assert faults(GOOD) == []
    assert faults(GOOD.replace("```bash\n", "    ").replace("```\n", "")) == []
    (found,) = faults(GOOD.replace(old, new))
    assert fault in found
