"""jsonl: the user's own text classification, one JSON object per line.

Given by dataset=jsonl dataset.path=reviews.jsonl. Everything else is as for dataset=csv. Labels may be
numbers or words.
"""

from experiments.data.csv import read as read
from experiments.data.csv import source as source
