#!/usr/bin/env python3
"""Draws the pictures of the documentation as SVG, with nothing but Python's own library.

    docs/pictures.py chart < docs/performance.csv > docs/performance.svg
    docs/pictures.py terminal PROGRAM > docs/terminal.svg

`terminal` runs PROGRAM (bitnet-gpu) on a terminal of 80 columns and draws what it shows.
"""

import csv
import os
import pty
import re
import subprocess
import sys
from html import escape

FONT = "font-family='ui-monospace,SFMono-Regular,Menlo,Consolas,monospace'"
COLOURS = ["#2563eb", "#94a3b8", "#cbd5e1"]

# Commands of the recording. A seed gives the same text on every machine's CPU.
SESSION = [
    ["run", "-p", "Once upon a time", "-n", "40", "-s", "4"],
    ["run", "Tom had a red ball.", "-n", "38", "-s", "1", "-q"],
]


def chart(rows):
    """Grouped horizontal bars of a table: a row is a group, a column a program."""
    names, groups = rows[0][1:], [(row[0], [float(cell) for cell in row[1:]]) for row in rows[1:]]
    bar, gap, left, width = 18, 16, 130, 640
    most = max(value for _, values in groups for value in values)
    out, y = [], 44
    x = 18
    for name, colour in zip(names, COLOURS):
        out.append(f"<rect x='{x}' y='12' width='12' height='12' fill='{colour}'/>")
        out.append(f"<text x='{x + 18}' y='23' fill='#475569'>{escape(name)}</text>")
        x += 40 + 8 * len(name)
    for label, values in groups:
        out.append(f"<text x='{left - 10}' y='{y + bar * len(values) / 2 + 5}' text-anchor='end' fill='#0f172a'>{escape(label)}</text>")
        for value, colour in zip(values, COLOURS):
            length = value / most * (width - left - 60)
            out.append(f"<rect x='{left}' y='{y}' width='{length:.1f}' height='{bar - 3}' fill='{colour}'/>")
            out.append(f"<text x='{left + length + 6:.1f}' y='{y + bar - 6}' fill='#0f172a'>{value:g}</text>")
            y += bar
        y += gap
    out.append(f"<text x='{left}' y='{y + 4}' fill='#475569'>tokens a second, 2 threads; longer is faster</text>")
    return svg(width, y + 18, "#ffffff", out, "Tokens a second of bitnet-gpu beside other programs")


def screen(text, columns=80):
    """Lines that a terminal shows after `text`: carriage returns and erasures done, colours dropped."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-JL-Za-z]", "", text)
    lines = []
    for raw in text.replace("\r\n", "\n").split("\n"):
        line = ""
        for part in raw.split("\r"):
            erase, part = "\x1b[K" in part or "\x1b[2K" in part, re.sub(r"\x1b\[[0-9]*K", "", part)
            line = part if erase else part + line[len(part):]
        lines += [line[i:i + columns] for i in range(0, len(line), columns)] or [""]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def shown(program, args):
    """What the program writes to a terminal of 80 columns."""
    master, slave = pty.openpty()
    environment = dict(os.environ, TERM="xterm", NO_COLOR="1", COLUMNS="80", LINES="24", BITNET_CACHE="")
    environment.setdefault("XDG_RUNTIME_DIR", "/tmp")
    subprocess.run(["stty", "rows", "24", "cols", "80"], stdin=slave, check=True)
    process = subprocess.Popen([program, *args], stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    data = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # Linux says so at the end.
            break
        if not piece:
            break
        data += piece
    if process.wait() != 0:
        sys.exit(f"bitnet-gpu {' '.join(args)}: exit code {process.returncode}")
    return screen(data.decode())


def quoted(word):
    return f'"{word}"' if " " in word else word


def terminal(program):
    """A window with the commands of SESSION and what they show."""
    row, out, y = 19, [], 52
    for x, colour in ((20, "#f87171"), (40, "#fbbf24"), (60, "#34d399")):
        out.append(f"<circle cx='{x}' cy='20' r='6' fill='{colour}'/>")
    for args in SESSION:
        lines = [("$ bitnet-gpu " + " ".join(map(quoted, args)), "#7dd3fc")]
        lines += [(line, "#e2e8f0") for line in shown(program, args)]
        for line, colour in lines:
            out.append(f"<text x='18' y='{y}' fill='{colour}' xml:space='preserve'>{escape(line)}</text>")
            y += row
        y += row // 2
    return svg(690, y, "#0f172a", out, "A terminal in which bitnet-gpu tells a story")


def svg(width, height, background, body, title):
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' {FONT} font-size='13'>"
    frame = f"<rect width='{width}' height='{height}' rx='8' fill='{background}'/>"
    return "\n".join([head, f"<title>{escape(title)}</title>", frame, *body, "</svg>"])


def main(args):
    if args == ["chart"]:
        print(chart(list(csv.reader(sys.stdin))))
    elif len(args) == 2 and args[0] == "terminal":
        print(terminal(args[1]))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
