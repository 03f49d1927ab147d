#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["fonttools==4.68.0"]
# ///
"""Makes src/report/fonts/ from the OTF files of Inter 4 (Debian's package fonts-inter, or rsms.me/inter).

    uv run tests/goldens/make/make_report_fonts.py /usr/share/fonts/opentype/inter

Each cut is subset to Latin and the signs that reports use. Inter-Tabular is Inter-Regular with the digits of its feature
`tnum`, because neither plotters nor krilla's simple text asks a font for features.
"""

import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

FOLDER = Path(__file__).resolve().parents[3] / "src/report/fonts"
LATIN = [*range(0x20, 0x7F), *range(0xA0, 0x180)]
SIGNS = [ord(sign) for sign in "Δμσαβλ–—‘’“”…•←↑→↓−‖≈≠≤≥∞√′″▲▼\u2009\u202f⁰⁴⁵⁶⁹⁻✓✗€↕"]
DIGITS = range(ord("0"), ord("9") + 1)


def tabular(font):
    """Glyphs that the feature `tnum` puts in the place of others."""
    gsub = font["GSUB"].table
    records = [record for record in gsub.FeatureList.FeatureRecord if record.FeatureTag == "tnum"]
    tables = [table for record in records for at in record.Feature.LookupListIndex for table in gsub.LookupList.Lookup[at].SubTable]
    tables = [getattr(table, "ExtSubTable", table) for table in tables]
    return {old: new for table in tables for old, new in getattr(table, "mapping", {}).items()}


def make(source, cut, features):
    font = TTFont(source)
    if cut == "Tabular":
        swapped = tabular(font)
        for table in font["cmap"].tables:
            table.cmap.update({code: swapped[glyph] for code, glyph in table.cmap.items() if code in DIGITS and glyph in swapped})
    options = subset.Options()
    options.layout_features = features
    options.hinting = False
    options.desubroutinize = True
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=LATIN + SIGNS)
    subsetter.subset(font)
    font.save(FOLDER / f"Inter-{cut}.otf")


def main():
    inter = Path(sys.argv[1])
    make(inter / "Inter-Regular.otf", "Regular", ["kern", "tnum"])
    make(inter / "Inter-SemiBold.otf", "SemiBold", ["kern", "tnum"])
    make(inter / "Inter-Regular.otf", "Tabular", ["kern"])


main()
