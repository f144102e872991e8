"""`dvc repro --single-item` of the stages named on standard input, a line each; flows/stages.py starts it.

A line is the name of a stage, and --force behind it where the stage has to run although nothing changed.

After each it prints a line: the word that it was given as argument, and DVC's exit code.
"""

import os
import sys

from dvc.cli import main

names = os.fdopen(os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a stage that reads must not take the next one's name
for line in names:
    code = main(["--wait-for-lock", "repro", "--single-item", *line.split()])
    print(f"\n{sys.argv[1]} {code}", flush=True)
