"""lm-evaluation-harness on finished runs: its tasks, answered by all runs of a study on one loaded base.

    python -m experiments.lm_eval runs/STUDY --tasks arc_easy,gsm8k
    python -m experiments.lm_eval runs/STUDY --tasks mine --include folder_of_task_yamls --limit 100
    python -m analysis.report runs/STUDY --metric lm_eval/arc_easy/acc

The harness asks one model. Here a pack answers each request for all of its runs in one batch and keeps the
answers, so that the harness, asking for the next run, finds them. Log-likelihoods, rolling log-likelihoods
and greedy generation up to a stop text are answered; sampling is refused. The results go into the study:
the record's metrics `lm_eval/<task>/<metric>` (of a filter `lm_eval/<task>/<metric>,<filter>`), its block
`lm_eval`, and a row per example in RUN/lm_eval/<task>.parquet.

Tasks are what harness 0.4.13 says they are. A text longer than the model takes keeps one token less of its
context than there, since its last token is read as well.
"""
