"""Judges the text in $OUT by the Python expression in $EXPRESSION; see `expect` in lib.sh."""

import json
import os
import sys

text = os.environ["OUT"]
values, decoder, at = [], json.JSONDecoder(), 0
try:
    while rest := text[at:].strip():
        at = len(text) - len(text[at:].lstrip())
        value, end = decoder.raw_decode(text[at:])
        values.append(value)
        at += end
except json.JSONDecodeError:
    values = []  # not JSON: only `text` can be asked

names = {"r": values[0] if values else None, "all": values, "text": text}
try:
    held = eval("(" + os.environ["EXPRESSION"] + ")", names)  # may have several lines
except (KeyError, IndexError, TypeError) as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    held = False
sys.exit(0 if held else 1)
