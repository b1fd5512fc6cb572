"""Results that ablora did not run, as records: PEFT's method comparison, a long CSV, an export of W&B.

`read` turns files into results, `write` makes a study folder of them, and the report and the audit read that
folder as any other. What such files do not say (scores by example, seeds in common) is not made up:
`independent` compares them as independent samples, `rules` asks what a reviewer of them would ask.
"""
