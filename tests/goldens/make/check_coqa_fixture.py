#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = []
# ///
"""Compiles fixtures/tiny-coqa/coqa-mini.txt to coqa-mini.json and checks both.

    tests/goldens/make/check_coqa_fixture.py           exit 1, a line for each fault, where the committed JSON is not what the text gives
    tests/goldens/make/check_coqa_fixture.py --write   write the JSON

The format of the text stands at its head. Offsets count characters, as in the official CoQA files.
"""

import argparse
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[3] / "fixtures" / "tiny-coqa"
SOURCES = ("mctest", "race", "gutenberg", "wikipedia", "cnn")
ANNOTATORS = ("0", "1", "2")


class Fault(Exception):
    pass


def answer(story, text, span_text, turn_id):
    """One answer with the span that supports it."""
    if story.count(span_text) != 1:
        raise Fault(f"turn {turn_id}: the span {span_text!r} stands {story.count(span_text)} times in the story; make it stand once")
    start = story.index(span_text)
    return {"span_start": start, "span_end": start + len(span_text), "span_text": span_text, "input_text": text, "turn_id": turn_id}


def conversation(head, body):
    """One story block: `head` is what follows `== `, `body` its lines."""
    source, name, *flags = head.split()
    if source not in SOURCES:
        raise Fault(f"source {source!r} is none of {', '.join(SOURCES)}")
    first_question = next((i for i, line in enumerate(body) if line.startswith("Q: ")), len(body))
    story = "\n".join(body[:first_question]).strip()
    words = len(story.split())
    if not 100 <= words <= 220:
        raise Fault(f"the story has {words} words; 100 to 220 are wanted")
    questions, answers, others = [], [], []
    for line in body[first_question:]:
        if line.startswith("Q: "):
            questions.append({"input_text": line[3:], "turn_id": len(questions) + 1})
        elif line.startswith("A: "):
            text, _, span_text = line[3:].partition(" // ")
            answers.append(answer(story, text, span_text, len(questions)))
            others.append([text] * len(ANNOTATORS))
        elif line.startswith("+ "):
            given = line[2:].split(" | ")
            others[-1][: len(given)] = given
        elif line:
            raise Fault(f"line {line!r} is no question, answer or answer of others")
        if len(answers) not in (len(questions), len(questions) - 1):
            raise Fault(f"turn {len(questions)}: a question has no answer, or two")
    if len(answers) != len(questions) or not questions:
        raise Fault("the last question has no answer")
    made = {"source": source, "id": name.replace(".", "-"), "filename": f"{name}.txt", "story": story, "questions": questions, "answers": answers}
    if "refs" in flags:
        made["additional_answers"] = {
            who: [dict(a, input_text=other[i]) for a, other in zip(answers, others)] for i, who in enumerate(ANNOTATORS)
        }
    return made


def compile_text(text):
    """The whole file in the official CoQA layout."""
    blocks, lines = [], None
    for line in text.splitlines():
        if line.startswith("== "):
            lines = []
            blocks.append((line[3:], lines))
        elif lines is not None:
            lines.append(line)
    data = []
    for head, body in blocks:
        try:
            data.append(conversation(head, body))
        except Fault as fault:
            raise Fault(f"{head}: {fault}") from None
    if len({c["id"] for c in data}) != len(data):
        raise Fault("two stories share an id")
    return {"version": "1.0", "data": data}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the JSON instead of comparing with it")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where coqa-mini.txt and coqa-mini.json lie")
    args = parser.parse_args()
    try:
        made = compile_text((args.folder / "coqa-mini.txt").read_text(encoding="utf-8"))
    except (Fault, OSError) as fault:
        sys.exit(f"check_coqa_fixture: {fault}")
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    target = args.folder / "coqa-mini.json"
    turns = sum(len(c["questions"]) for c in made["data"])
    if args.write:
        target.write_text(text, encoding="utf-8")
    elif not target.is_file() or target.read_text(encoding="utf-8") != text:
        sys.exit(f"check_coqa_fixture: {target.name} is not what coqa-mini.txt gives; run tests/goldens/make/check_coqa_fixture.py --write")
    print(f"{target.name}: {len(made['data'])} stories, {turns} questions")


if __name__ == "__main__":
    main()
