"""`sweep publish`: the report of a study as a W&B run, once for each report."""

import base64
import json

import pytest

from experiments import record
from experiments.tracking import _log, _report

COLUMNS = (
    "dataset,model,metric,targets,alpha,r,cell_key,variant,baseline,n_seeds,difference,ci_low,ci_high,p,"
    "p_adjusted,margin,smallest_detectable,verdict"
)
ROWS = [
    "toy,tiny,accuracy,qv,16,4,k4,dora,lora,3,0.01,-0.02,0.04,0.3,0.6,0.01,0.03,inconclusive",
    "toy,tiny,accuracy,qv,16,all,ka,dora,lora,3,0.02,0.01,0.03,0.01,0.02,0.01,0.02,better",
    "toy,tiny,accuracy,qv,16,4,k5,probe,lora,2,-0.125,,,,,0.01,,",
]
PICTURE = b"\x89PNG and so on"


@pytest.fixture
def study(tmp_path):
    """A study of one run with a report."""
    folder = tmp_path / "runs" / "demo"
    facts = {"run_id": "a", "study": "demo", "spec": {}, "status": "completed"}
    record.RunFolder(folder / "a").write_record(facts)
    figures = folder / "report" / "figures"
    figures.mkdir(parents=True)
    (figures / "forest.png").write_bytes(PICTURE)
    (figures / "forest.svg").write_text("<svg/>")
    (folder / "report" / "verdicts.csv").write_text("\n".join([COLUMNS, *ROWS]) + "\n")
    (folder / "report" / "report.html").write_text("<h1>The answer</h1>")
    return folder


@pytest.fixture
def publish(command, study):
    """The command on the study."""
    return lambda *words: command("publish", str(study), "--timeout", "5", *words)


def test_the_report_arrives_with_table_numbers_figures_and_page(online, publish, study):
    code, shown = publish()
    (run,) = online.runs.values()
    assert code == 0 and run.name in shown
    assert (run.upsert["groupName"], run.upsert["jobType"], run.project) == ("demo", "report", "demo")
    assert run.state == "finished"
    (row,) = run.rows
    table = json.loads(run.files[row["verdicts"]["path"]])
    assert table["columns"] == COLUMNS.split(",")
    assert table["data"][1][4:11] == [16, "all", "ka", "dora", "lora", 3, 0.02]
    assert table["data"][2][-2:] == [None, None]
    assert run.files[row["report"]["path"]] == b"<h1>The answer</h1>"
    assert base64.b64encode(PICTURE) in run.files[row["figures/forest"]["path"]]
    assert run.files["figures/forest.png"] == PICTURE and b"better" in run.files["verdicts.csv"]
    assert run.summary["dora against lora/r=all/difference"] == 0.02
    assert run.summary["dora against lora/r=all/verdict"] == "better"
    assert run.summary["probe against lora/r=4/difference"] == -0.125
    assert "dora against lora/r=4/difference" not in run.summary
    assert run.summary["runs/completed"] == 1


def test_the_same_report_is_published_once_and_a_changed_one_again(online, publish, study):
    publish()
    code, shown = publish()
    assert code == 0 and "W&B has this report" in shown and len(online.runs) == 1
    (study / "report" / "report.html").write_text("<h1>Another answer</h1>")
    assert publish("--project", "other")[0] == 0
    assert len(online.runs) == 2 and {run.project for run in online.runs.values()} == {"demo", "other"}
    assert all(len(run.lines) == 1 for run in online.runs.values())


def test_offline_it_waits_in_a_log_until_it_is_published(online, publish, study, client):
    assert publish("--offline")[0] == 0 and not online.runs
    client.teardown()
    (log,) = _log.logs(study)
    (row,) = _log.rows(study)
    assert {key.rpartition("/")[0] for key in row} == {"verdicts", "report", "figures/forest"}
    (run,) = [entry.run for entry in _log.records(log) if entry.HasField("run")]
    assert (run.run_id, run.run_group, run.job_type) == (_report.id_of(study), "demo", "report")
    code, shown = publish("--offline")
    assert code == 0 and "is logged in" in shown and len(_log.logs(study)) == 1
    assert publish()[0] == 0 and len(online.runs) == 1
    assert log.with_name(f"{log.name}.synced").exists(), "wandb sync passes over it"


def test_settings_that_differ_are_part_of_the_names(study):
    path = study / "report" / "verdicts.csv"
    path.write_text("\n".join([COLUMNS, ROWS[1], ROWS[1].replace("toy", "other")]) + "\n")
    names = set(_report.headline(path))
    assert {name for name in names if name.endswith("/verdict")} == {
        "dora against lora/dataset=toy/r=all/verdict",
        "dora against lora/dataset=other/r=all/verdict",
    }


def test_what_stands_against_it_is_said(online, publish, study, tmp_path):
    online.failing = True
    code, shown = publish("--timeout", "1")
    assert code == 2 and "W&B does not answer" in shown
    (study / "report" / "verdicts.csv").unlink()
    code, shown = publish()
    assert code == 2 and f"python -m analysis.report {study}" in shown


def test_without_an_account_it_says_what_to_do(client, publish):
    code, shown = publish()
    assert code == 2 and "wandb login" in shown
