"""From specs to jobs: what is submitted, what is not, and what is left on the disk; Slurm is a false one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import provenance
from experiments.errors import UserError
from experiments.sweep import packs
from experiments.sweep.slurm import client, script
from experiments.sweep.slurm.submission import element, submissions

STUDY = Path("runs/default")

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=default:dora+lora
#SBATCH --array=0-1%3
#SBATCH --output={folder}/logs/%A_%a.log
#SBATCH --signal=USR2@120
#SBATCH --partition=short
#SBATCH --time=240
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16384M
#SBATCH --comment="two words"
#SBATCH --requeue
#SBATCH --open-mode=append
"""


def arrays(number=-1):
    """The arrays of a submission, the last one if no other is asked for."""
    return submissions(STUDY)[number].arrays


def run_ids(number=-1):
    """The runs of each element of each array of a submission."""
    made = submissions(STUDY)[number]
    return [
        [
            [run_id for _, run_id in element(made.folder / array["file"], index)]
            for index in range(array["tasks"])
        ]
        for array in made.arrays
    ]


def test_runs_of_one_shape_share_an_array_and_others_have_their_own(fake, submitter, cells_of, capsys):
    specs = cells_of("variant=lora,full,dora r=4")
    assert submitter(throttle=3).submit(specs) == 0
    assert [(a["variants"], a["tasks"], a["job"]) for a in arrays()] == [
        (["dora", "lora"], 2, "101"), (["full"], 1, "102"),
    ]  # fmt: skip
    named = [spec.run_id(spec.dataset) for spec in (specs[0], specs[2], specs[1])]
    assert run_ids() == [[[named[0]], [named[1]]], [[named[2]]]]
    output = capsys.readouterr().out
    assert "Job 101: 2 runs of dora, lora, 2 tasks of 4 cores, 16 GB\n" in output
    assert "Job 102: 1 run of full, 1 task of 4 cores, 32 GB\n" in output
    assert "Job 103 makes the report" in output
    assert "experiments.sweep watch runs/default" in output


def test_the_script_of_an_array(fake, submitter, cells_of):
    submitter(
        throttle=3, partition="short", sbatch=["--comment=two words"], setup=["module load a", "b"]
    ).submit(cells_of("variant=lora,dora r=4"))
    folder = Path.cwd() / STUDY / ".slurm/1"
    text = (folder / "1.sbatch").read_text()
    assert text.startswith(SCRIPT.format(folder=folder))
    lines = [line for line in text.removeprefix(SCRIPT).splitlines() if not line.startswith("#")]
    assert [line for line in lines if line][:6] == [
        f"cd {Path.cwd()} || exit 2",
        f"export PYTHONPATH={folder}/code PYTHONSAFEPATH=1",
        f"source {folder}/code/slurm/env.sh",
        "module load a",
        "b",
        "trap : TERM USR1 USR2",
    ]
    task = f"{sys.executable} -m experiments.sweep.slurm.task {folder}/1.jsonl &"
    assert next(line for line in lines if line.startswith("srun")).endswith(task)
    assert "{{" not in text
    assert subprocess.run(["bash", "-n", folder / "1.sbatch"], check=False).returncode == 0


def test_the_report_comes_after_all_arrays_whatever_became_of_them(fake, submitter, cells_of):
    submitter(resources={"report": {"cpus": 1, "mem_gb": 2}, "variant": {"full": {"cpus": 8}}}).submit(
        cells_of("variant=lora,full")
    )
    text = (STUDY / ".slurm/1/report.sbatch").read_text()
    assert "#SBATCH --dependency=afterany:101:102\n#SBATCH --kill-on-invalid-dep=yes\n" in text
    assert "#SBATCH --cpus-per-task=1\n#SBATCH --mem=2048M\n" in text
    assert f"{sys.executable} -m analysis.report runs/default &" in text
    assert submissions(STUDY)[0].after == ["103"]


def test_several_runs_to_a_task(fake, submitter, cells_of):
    submitter(runs_per_task=3).submit(cells_of("variant=lora seed=range(0,7)"))
    assert [len(element) for element in run_ids()[0]] == [3, 3, 1]
    assert "--array=0-2%32" in (STUDY / ".slurm/1/1.sbatch").read_text()


def test_a_task_is_a_pack_and_runs_per_task_counts_packs(fake, submitter, cells_of):
    """Runs of two batch sizes, which share no pack; one that was interrupted keeps its runs."""
    specs = cells_of("variant=lora,dora r=2,4 train.batch_size=8,16")
    ids = {spec.run_id(spec.dataset): spec for spec in specs}
    cut = [run_id for run_id, spec in ids.items() if spec.train.batch_size == 8][1:3]
    packs.write_down(packs.folder_of(STUDY, cut), cut)
    (packs.folder_of(STUDY, cut) / "step-00000003.x.pt").touch()
    submitter(pack=3).submit(specs)
    found = run_ids()[0]
    assert sorted(map(len, found)) == [2, 2, 2, 2] and cut in found
    for element_ids in found:
        assert len({ids[run_id].train.batch_size for run_id in element_ids}) == 1
    assert sorted(run_id for part in found for run_id in part) == sorted(ids)
    assert "--array=0-3%32" in (STUDY / ".slurm/1/1.sbatch").read_text()
    submitter(pack=3, runs_per_task=3).submit(cells_of("variant=lora,dora r=2,4 train.batch_size=8,16"))
    assert sorted(map(len, run_ids()[0])) == [2, 6]


@pytest.mark.parametrize("pack", ["auto", "off", 1])
def test_otherwise_it_counts_runs(fake, submitter, cells_of, pack):
    submitter(pack=pack, runs_per_task=2).submit(cells_of("variant=lora seed=0,1,2"))
    assert [len(element) for element in run_ids()[0]] == [2, 1]


def test_a_sharded_run_asks_for_its_gpus(fake, submitter, cells_of):
    submitter(fsdp=2, pack="auto", gpus=2).submit(cells_of("variant=lora seed=0,1"))
    assert "#SBATCH --gres=gpu:2\n" in (STUDY / ".slurm/1/1.sbatch").read_text()
    assert [len(element) for element in run_ids()[0]] == [1, 1]


@pytest.mark.parametrize(("throttle", "dependency"), [(2, "#SBATCH --dependency=afterany:101\n"), (None, "")])
def test_an_array_is_no_longer_than_the_cluster_allows(fake, submitter, cells_of, throttle, dependency):
    fake.write("scontrol", 'echo "MaxArraySize            = 5"')
    submitter(throttle=throttle).submit(cells_of("variant=lora seed=range(0,7)"))
    assert [array["tasks"] for array in arrays()] == [5, 2]
    assert len({run_id for array in run_ids() for element in array for run_id in element}) == 7
    second = (STUDY / ".slurm/1/2.sbatch").read_text()
    limit = "%2" if throttle else ""
    assert f"#SBATCH --array=0-1{limit}\n" in second
    assert ("--dependency" in second) == bool(dependency)
    assert dependency in second


def test_a_cluster_that_does_not_tell_its_limit_has_slurms_own(fake):
    fake.write("scontrol", "exit 1")
    assert client.max_array_size() == 1001


def test_what_is_in_the_queue_is_not_submitted_again(fake, submitter, cells_of, capsys):
    specs = cells_of("variant=lora seed=range(0,3)")
    submitter().submit(specs)
    fake.queue("101|0|RUNNING|None", "101|2|PENDING|Priority", "99|1|PENDING|Priority")
    submitter().submit(specs)
    assert run_ids() == [[[specs[1].run_id(specs[1].dataset)]]]
    output = capsys.readouterr().out
    assert "3 runs, 2 in the queue already" in output
    report = (STUDY / ".slurm/2/report.sbatch").read_text()
    assert "--dependency=afterany:103:101" in report, "the report waits for those, too"
    fake.queue(*(f"101|{index}|PENDING|Priority" for index in range(3)))
    before = fake.told("sbatch")
    assert submitter().submit(specs) == 0
    assert fake.told("sbatch") == before
    assert "experiments.sweep watch" in capsys.readouterr().out


def test_without_squeue_everything_that_is_missing_is_submitted(fake, submitter, cells_of):
    fake.write("squeue", "echo no such host >&2; exit 1")
    for _ in range(2):
        submitter().submit(cells_of("variant=lora seed=0,1"))
    assert [array["tasks"] for array in arrays()] == [2]
    assert len(submissions(STUDY)) == 2


def test_without_sbatch_nothing_is_written(submitter, cells_of, monkeypatch):
    submit = submitter()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="the program sbatch, which this machine does not have"):
        submit.submit(cells_of("variant=lora"))
    assert not Path("runs").exists()


def test_what_slurm_refuses_is_told_and_what_it_took_is_known(fake, submitter, cells_of):
    refuse = 'test $(wc -l < "$log") -eq 1 && echo 101 && exit; echo "sbatch: error: no such" >&2; exit 1'
    fake.write("sbatch", refuse)
    with pytest.raises(UserError, match=r"Slurm did not take \S+2\.sbatch: no such\. Change"):
        submitter().submit(cells_of("variant=lora,full"))
    assert [array["job"] for array in arrays()] == ["101"]
    fake.queue("101|0|PENDING|Priority")
    fake.write("sbatch", "echo 200")
    submitter().submit(cells_of("variant=lora,full"))
    assert [array["variants"] for array in arrays()] == [["full"]]


def test_what_slurm_took_before_it_refused_is_reported_on(fake, submitter, cells_of, capsys):
    """A limit on jobs that the second array would pass, and the small job of the report does not."""
    number = 'number=$(wc -l < "$log"); test $number -eq 2 && echo MaxJobCount >&2 && exit 1'
    fake.write("sbatch", f"{number}; echo $((100 + number))")
    with pytest.raises(UserError, match="MaxJobCount"):
        submitter().submit(cells_of("variant=lora,full"))
    assert "--dependency=afterany:101\n" in (STUDY / ".slurm/1/report.sbatch").read_text()
    assert submissions(STUDY)[0].after == ["103"]
    assert "Job 103 makes the report" in capsys.readouterr().out


def test_a_command_goes_on_after_the_runs_with_the_code_that_they_run(fake, submitter, cells_of):
    submit = submitter()
    submit.submit(cells_of("variant=lora"))
    submit.submit_after([sys.executable, "-m", "experiments", "run", "hydra/sweeper=fair", "targets=[a,b]"])
    text = (STUDY / ".slurm/1/after-1.sbatch").read_text()
    assert f"{sys.executable} -m experiments run hydra/sweeper=fair 'targets=[a,b]' &" in text
    assert f"export PYTHONPATH={Path.cwd() / STUDY / '.slurm/1/code'} " in text
    assert "--dependency=afterany:101\n" in text
    assert submissions(STUDY)[0].after == ["102", "103"]


def test_a_command_goes_on_after_what_an_earlier_one_submitted(fake, submitter, cells_of):
    specs = cells_of("variant=lora")
    submitter().submit(specs)
    fake.queue("101|0|RUNNING|None", "102||PENDING|Dependency")
    submit = submitter()
    submit.submit(specs)
    submit.submit_after(["true"])
    assert "--dependency=afterany:101\n" in (STUDY / ".slurm/2/after-0.sbatch").read_text()


def test_the_copy_of_the_code_tells_where_it_came_from(tmp_path):
    script.copy_code(tmp_path / "code")
    code = (
        "import json; from experiments import provenance as p; print(json.dumps([str(p.ROOT), p.source()]))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=provenance.ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "code"), "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    root, source = json.loads(told.stdout)
    assert Path(root) == tmp_path / "code"
    assert source == provenance.source()
    assert source["code_sha256"] == provenance.code_sha256(tmp_path / "code")
    assert not list((tmp_path / "code").rglob("__pycache__"))
    assert sum(path.stat().st_size for path in (tmp_path / "code").rglob("*") if path.is_file()) < 5e6
