"""The kernel's counts of its kills, in made-up files as the kernel shows them, and whom they explain."""

import pytest

from experiments.sweep.resources import OomWatch, oom_kills

V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
V2 = "low 0\nhigh 0\nmax 7\noom 9\noom_kill {}\noom_group_kill 0\n"
VMSTAT = "nr_free_pages 5\noom_kill 100\n"


@pytest.fixture
def system(tmp_path):
    """`system(cgroup, mount, files)`: a /proc and a tree of cgroups at tmp_path/cgroup."""

    def made(cgroup, mount, files):
        proc = tmp_path / "proc"
        (proc / "self").mkdir(parents=True)
        (proc / "self/cgroup").write_text(cgroup)
        (proc / "self/mountinfo").write_text(mount.format(top=tmp_path / "cgroup"))
        (proc / "vmstat").write_text(VMSTAT)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return proc

    return made


UNIFIED = (
    "24 23 0:21 / / rw - ext4 /dev/a rw\n42 24 0:39 {root} {{top}} rw,relatime shared:9 - cgroup2 c rw\n"
)
FIRST = (
    "34 31 0:31 / {top}-cpu rw - cgroup cgroup rw,cpu\n35 31 0:32 / {top} rw - cgroup cgroup rw,memory\n"
    "41 31 0:38 / {top}-unified rw - cgroup2 cgroup2 rw\n"
)


@pytest.mark.parametrize(
    ("cgroup", "mount", "files", "expected"),
    [
        ("0::/a/b\n", UNIFIED.format(root="/"), {"a/b/memory.events": V2.format(3)}, 3),
        (
            "0::/a/b\n",
            UNIFIED.format(root="/"),
            {"a/b/memory.events.local": V2.format(2), "a/b/memory.events": V2.format(5)},
            2,
        ),
        ("0::/a/b\n", UNIFIED.format(root="/"), {"a/memory.events": V2.format(4)}, 4),
        ("0::/box/a\n", UNIFIED.format(root="/box"), {"a/memory.events": V2.format(6)}, 6),
        ("0::/../other\n", UNIFIED.format(root="/"), {"memory.events": V2.format(8)}, 8),
        ("0::/a\n", UNIFIED.format(root="/"), {}, 100),
        ("2:cpu:/x\n4:memory:/a/b\n0::/\n", FIRST, {"a/b/memory.oom_control": V1.format(1)}, 1),
        (
            "2:cpu:/x\n4:memory:/a/b\n0::/\n",
            FIRST,
            {"a/b/memory.oom_control": "under_oom 0\n", "memory.events": V2.format(9)},
            100,
        ),
        ("", "", {}, 100),
    ],
    ids=[
        "v2", "v2, its own before its children's", "v2, counted above", "v2, in a container",
        "v2, outside of what is mounted", "v2 without memory", "v1 beside v2", "v1, too old to count", "none",
    ],
)  # fmt: skip
def test_the_count_is_that_of_the_nearest_cgroup_that_counts_memory(system, cgroup, mount, files, expected):
    assert oom_kills(system(cgroup, mount, files)) == expected


def test_where_nothing_counts_nothing_is_known(tmp_path):
    assert oom_kills(tmp_path) is None
    assert OomWatch(lambda: None).explains(None) is None
    assert OomWatch(lambda: 3).explains(None) is None


def test_a_kill_explains_one_death():
    """Of three workers that began at a count of 4, the kernel kills two, and somebody the third."""
    count = iter([6, 6, 6, 6, 7])
    watch = OomWatch(lambda: next(count))
    assert [watch.explains(4) for _ in range(3)] == [True, True, False]
    assert watch.explains(6) is False, "it began after those kills"
    assert watch.explains(6) is True


def test_a_kill_from_before_the_work_began_explains_nothing():
    assert OomWatch(lambda: 4).explains(4) is False
