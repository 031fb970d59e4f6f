"""Distillation: prompts, what a teacher answered, and what of it is worth learning.

`prompts` reads and draws what is asked, `outcomes` decides about one answer, `duplicates` about alike ones; `records`
are the rows as values. Knows no database, no store and no HTTP.
"""

from rootstock.distil.duplicates import near_duplicates
from rootstock.distil.outcomes import Outcome, example, look, texts
from rootstock.distil.prompts import Answer, Drawn, Prompt, draw

__all__ = ["Answer", "Drawn", "Outcome", "Prompt", "draw", "example", "look", "near_duplicates", "texts"]
