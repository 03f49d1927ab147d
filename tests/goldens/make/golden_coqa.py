# /// script
# requires-python = "==3.11.*"
# dependencies = ["lm_eval==0.4.13", "transformers==5.17.0", "pyarrow==26.0.1"]
# ///
"""Writes tests/goldens/coqa_scores.json: what lm_eval 0.4.13's own CoQA functions return.

    uv run tests/goldens/make/golden_coqa.py tests/goldens/coqa_scores.json
    uv run tests/goldens/make/golden_coqa.py --parquet tests/goldens        # the same documents as the hub's parquet files
    uv run tests/goldens/make/golden_coqa.py --hash coqa-dev-v1.0.json      # SHA-256 of every turn's prompt and of every reference list

Scores are written with repr's shortest digits, which read back to the same double.
The second form prints one line a turn, `id turn_id sha256(prompt) sha256(json of golds)`, to compare with
`cargo run --example coqa_hashes -- coqa-dev-v1.0.json` on data that may not be committed (`diff` of the two is empty).
"""

import hashlib
import json
import random
import sys
import unicodedata

from lm_eval.tasks.coqa import utils
from transformers.data.metrics import squad_metrics

HAND = [
    # prediction, golds
    ("white", ["white"]), ("White.", ["white"]), ("the white one", ["white"]), ("", [""]), ("", ["yes"]), ("yes", [""]),
    ("the", [""]), ("", ["the"]), ("a", ["an"]), ("an", ["the", "a"]), ("...", ["!"]), ("'", ["the ' a"]), ("no", ["no", "No", "NO."]),
    ("red red red car", ["red car"]), ("red car", ["red red red car"]), ("red red", ["red red blue", "blue red", "red"]),
    ("42", ["forty-two", "42", "42.0"]), ("1,000", ["1000", "1 000"]), ("$5.00", ["500", "5.00", "five dollars"]),
    ("U.S.A.", ["usa", "USA", "the United States"]), ("it's", ["its", "it is"]), ("well-known", ["well known", "wellknown"]),
    ("a a a", ["a"]), ("the theatre", ["theatre", "The Theater"]), ("theatre", ["the atre"]), ("the_cat", ["thecat", "the cat", "cat"]),
    ("İstanbul", ["istanbul", "i̇stanbul", "İSTANBUL"]), ("ΟΔΟΣ", ["οδος", "οδοσ", "Οδός"]), ("ΣΣΣ Σ aΣ", ["σσς σ aς"]), ("STRASSE", ["straße", "Strasse"]),
    ("STRAẞE", ["straße"]), ("Ａ ｃａｔ", ["cat", "ａ ｃａｔ"]), ("café", ["cafe\u0301", "CAFÉ", "cafe"]), ("cafe\u0301", ["café", "CAFE\u0301"]),
    ("a\u0301 b", ["b", "á b"]), ("the\u0301 b", ["b"]), ("a\u093e b", ["b", "\u093e b"]), ("\u0905 a \u0906", ["\u0905 \u0906"]),
    ("日本 の 猫", ["日本の猫", "日本", "猫"]), ("日本a猫", ["日本 猫"]), ("the日本", ["日本"]), ("«yes»", ["yes", "« yes »"]), ("yes—no", ["yes no", "yes—no"]),
    ("“Yes”", ["yes", "\"yes\""]), ("don’t", ["don't", "dont", "don’t"]), ("x\u00a0y", ["x y"]), ("x\u200by", ["x y", "xy"]), ("x\u2003y\u3000z", ["x y z"]),
    ("x\u001cy\u001dz\u001ew\u001fv", ["x y z w v"]), ("x\u0085y", ["x y"]), ("x\u180ey", ["x y"]), ("x\ufeffy", ["x y"]), ("\tx\n y\r\n", ["x y"]),
    ("½ cup", ["1/2 cup", "½ cup"]), ("²a", ["²", "² a"]), ("a²", ["²"]), ("Ⅷ", ["ⅷ", "8"]), ("a\u0903", ["\u0903"]), ("Ⓐ a", ["ⓐ"]), ("a\U0001f600", ["\U0001f600"]),
    ("\U00010400 a", ["\U00010428"]), ("a\u20dd", ["\u20dd"]), ("a\u0345", ["\u0345"]), ("\u0130\u0307", ["i\u0307\u0307"]), ("Dž", ["ǆ", "dž"]), ("ﬁ", ["fi", "ﬁ"]),
]

WORDS = ["white", "White", "cat", "the", "a", "an", "The", "red", "RED", "barn", "in", "of", "two", "2", "1,000", "U.S.", "yes", "no", "No,", "don't", "it's", "-", "...",
         "café", "ΟΔΟΣ", "naïve", "日本", "a\u0301", "x\u00a0y", "'a'", "\"the\"", "_an_", "well-known", "unknown", "İ", "Σ", "\u001c", "a\u093e", ""]

DOMAINS = ["mctest", "gutenberg", "race", "cnn", "wikipedia", "reddit", "science"]


def pairs():
    rng = random.Random(20)
    made = list(HAND)
    while len(made) < 480:
        golds = [" ".join(rng.choices(WORDS, k=rng.randint(0, 5))) for _ in range(rng.randint(1, 4))]
        kind = rng.random()
        if kind < 0.25:
            pred = rng.choice(golds)
        elif kind < 0.5:
            words = rng.choice(golds).split(" ") + rng.choices(WORDS, k=rng.randint(0, 3))
            rng.shuffle(words)
            pred = " ".join(words)
        else:
            pred = " ".join(rng.choices(WORDS, k=rng.randint(0, 6)))
        if rng.random() < 0.3:
            golds.append(rng.choice(golds).upper())
        made.append((pred, golds))
    return made


STORIES = [
    "Mara kept seven hens behind the mill. Each morning she counted them twice.",
    "Der Müller sagte: »Komm morgen wieder!« Niemand kam.\n\nAm Abend schneite es.",
    "老人は川のそばに住んでいた。犬の名前は「星」だった。",
    "Line one\nQ: a trap\nA: another trap\n\nLine two.",
    "  leading and trailing spaces  ",
    "Η ΟΔΟΣ ήταν ΣΚΟΤΕΙΝΗ. 😀 The sign said \"closed\".\r\nNobody minded.",
    "Tabs\tand\u00a0no-break\u2009spaces.",
    "A very short one.",
    "Quote: \\\"escaped\\\" and a backslash \\ too; braces { } < > & as well.",
    "The boat left at 7:45 p.m. and returned at 9 with 1,204 fish — a record.",
    "Ice \u0000 nul and \u001f unit separators may come too.",
    "Ada met Bo. Bo met Cy. Cy met Ada again, in Zürich.",
]
QUESTIONS = ["Who?", "What did she count?", "How often?", "Where was it?", "Why\u00a0then?", "¿Y luego?", "When — exactly?", "", "Did \"he\"?\nReally?"]
ANSWERS = ["Mara", "hens", "twice", "behind the mill", "unknown", "Yes", "yes", "YES", "no.", "", "a  b", "七", "İ", "ΟΔΟΣ", "οδος", " spaced "]


def docs():
    rng = random.Random(7)
    for i in range(24):
        turns = rng.randint(1, 6)
        column = lambda: {"input_text": [rng.choice(ANSWERS) for _ in range(turns)], "turn_id": list(range(1, turns + 1))}
        doc = {
            "id": f"own-{i}", "source": DOMAINS[i % 7], "story": STORIES[i % len(STORIES)],
            "questions": {"input_text": [rng.choice(QUESTIONS) for _ in range(turns)], "turn_id": list(range(1, turns + 1))},
            "answers": column(),
        }
        if i % 4:
            doc["additional_answers"] = {str(k): column() for k in range(i % 4)}
        yield doc


RAW = [" Mara", "Mara\n\nQ: next", "\n\n twice \nmore", "", "   ", "\u001c yes\u0085\nno", " behind the mill.\n", "A: x\r\ny", "ΟΔΟΣ\n", " unknown", "Yes", "\u2028hens\u2028x\ny"]


def cut(doc, turns):
    """The document as lm_eval would see it had the conversation ended after `turns` questions."""
    take = lambda column: {key: value[:turns] for key, value in column.items()}
    short = {**doc, "questions": take(doc["questions"]), "answers": take(doc["answers"])}
    if "additional_answers" in doc:
        short["additional_answers"] = {key: take(value) for key, value in doc["additional_answers"].items()}
    return short


def golden_doc(doc, rng):
    turns = len(doc["questions"]["input_text"])
    results = []
    for raw in rng.sample(RAW, 3):
        results.append({"raw": raw, **utils.process_results(doc, [raw])})
    return {
        "doc": doc,
        "text": utils.doc_to_text(doc),
        "target": utils.doc_to_target(doc),
        "results": results,
        "turn_prompts": [utils.doc_to_text(cut(doc, n)) for n in range(1, turns + 1)],
    }


def ranges(points):
    """[first, last] pairs of a sorted list of integers."""
    out = []
    for point in points:
        if out and out[-1][1] == point - 1:
            out[-1][1] = point
        else:
            out.append([point, point])
    return out


def unicode_facts():
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    return {
        "version": unicodedata.unidata_version,
        "unassigned": ranges(ord(c) for c in chars if unicodedata.category(c) == "Cn"),
        "lower": {c: c.lower() for c in chars if c.lower() != c},
        "space": [ord(c) for c in chars if c.isspace()],
        # `\bthe\b` holds before a character that is no word character, so there the article goes.
        "word": ranges(ord(c) for c in chars if c.isalnum()),
    }


def sigma(rng):
    letters = ["Σ", "a", "B", " ", "'", ".", "\u0301", "\u00ad", "1", "日", "İ", ":", "-"]
    for _ in range(200):
        text = "".join(rng.choices(letters, k=rng.randint(1, 7)))
        yield [text, text.lower()]


def main(path):
    golden = {
        "made_by": "tests/goldens/make/golden_coqa.py, lm_eval 0.4.13, transformers 5.17.0, Python " + sys.version.split()[0],
        "pairs": [
            {
                "prediction": pred, "golds": golds, "normalized": squad_metrics.normalize_answer(pred), **utils.compute_scores(golds, pred),
                "exact0": squad_metrics.compute_exact(golds[0], pred), "f1_0": squad_metrics.compute_f1(golds[0], pred),
            }
            for pred, golds in pairs()
        ],
        "docs": [golden_doc(doc, random.Random(i)) for i, doc in enumerate(docs())],
        "unicode": unicode_facts(),
        "sigma": list(sigma(random.Random(3))),
    }
    with open(path, "w", encoding="utf-8") as f:
        json.dump(golden, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


def hashes(path):
    sha = lambda text: hashlib.sha256(text.encode()).hexdigest()
    for story in json.load(open(path, encoding="utf-8"))["data"]:
        column = lambda answers: {"input_text": [answer["input_text"] for answer in answers]}
        doc = {"story": story["story"], "questions": column(story["questions"]), "answers": column(story["answers"])}
        if story.get("additional_answers"):
            doc["additional_answers"] = {key: column(value) for key, value in story["additional_answers"].items()}
        for n, question in enumerate(story["questions"], 1):
            short = cut(doc, n)
            golds = json.dumps(utils.doc_to_target(short), ensure_ascii=False, separators=(",", ":"))
            print(story["id"], question["turn_id"], sha(utils.doc_to_text(short)), sha(golds))


def parquet(folder):
    """The documents of the golden in the columns of EleutherAI/coqa, and of stanfordnlp/coqa, which has less of them."""
    import pyarrow
    import pyarrow.parquet

    write = lambda name, rows: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), f"{folder}/{name}.parquet", compression="snappy")
    write("coqa_eleutherai", [{**doc, "additional_answers": doc.get("additional_answers")} for doc in docs()])
    stanford = lambda doc: {
        "source": doc["source"], "story": doc["story"], "questions": doc["questions"]["input_text"],
        "answers": {"input_text": doc["answers"]["input_text"], "answer_start": [0] * len(doc["answers"]["input_text"])},
    }
    write("coqa_stanfordnlp", [stanford(doc) for doc in docs()])


if __name__ == "__main__":
    if sys.argv[1] == "--hash":
        hashes(sys.argv[2])
    elif sys.argv[1] == "--parquet":
        parquet(sys.argv[2])
    else:
        main(sys.argv[1])
