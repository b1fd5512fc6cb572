"""Tables of the hub as tasks: from a stand-in of the hub's cache, and from local files."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from experiments import data
from experiments.config.groups import CONF
from experiments.data.hub import _snapshot
from experiments.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    """No cache and no local copies but the test's own, and no network."""
    monkeypatch.setenv("ABLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ABLORA_DATA", str(tmp_path / "copies"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for cached in (data._read, data._fingerprint, _snapshot):
        cached.cache_clear()
    yield
    for cached in (data._read, data._fingerprint, _snapshot):
        cached.cache_clear()


@pytest.fixture
def cached(tmp_path):
    """A table in the hub's cache, by the cache's own layout: `cached(name, subset, {split: columns})`."""

    def cached(name, subset, splits):
        folder = tmp_path / "hub" / f"datasets--{name.replace('/', '--')}"
        reference = folder / "refs" / "refs" / "convert" / "parquet"
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(COMMIT)
        for split, columns in splits.items():
            file = folder / "snapshots" / COMMIT / subset / split / "0000.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pa.table(columns), file)

    return cached


def rows(count, first=0):
    return range(first, first + count)


def read(choice, **options):
    """A dataset by its yaml, with other options."""
    from experiments.config.groups import Conf

    content = {k: v for k, v in Conf(CONF).read("dataset", choice).items() if k != "ranges"}
    name = options.pop("name", None) or content["name"]
    content.pop("name")
    return data.read_options(name, {**content, **options})


def test_a_table_is_read_from_the_hubs_cache_and_named_by_its_commit(cached):
    part = {"sentence": [f"text {i}" for i in rows(60)], "label": [i % 2 for i in rows(60)]}
    cached("nyu-mll/glue", "sst2", {"train": part, "validation": {"sentence": ["a", "b"], "label": [1, 0]}})
    raw = read("sst2")
    assert raw.labels == ("negative", "positive") and raw.settings["metrics"] == ("accuracy",)
    assert dict(zip(raw.splits["test"].texts, raw.splits["test"].labels, strict=True)) == {"a": 1, "b": 0}
    assert (
        len(raw.splits["train"]) + len(raw.splits["validation"]) == 60 and len(raw.splits["validation"]) > 0
    )
    assert any(COMMIT in note and "nyu-mll/glue" in note for note in raw.notes)


def test_a_first_row_that_looks_like_names_is_a_row_where_the_names_are_known(tmp_path):
    lines = [f"name : Inn {i} | area : riverside||Inn {i} is by the river ." for i in rows(60)]
    (tmp_path / "train.txt").write_text("\n".join(dict.fromkeys(lines)) + "\n")
    raw = read("e2e_nlg", path=str(tmp_path / "train.txt"))
    assert sum(map(len, raw.splits.values())) == 60


def test_glues_own_files_give_what_the_hub_gives(cached, tmp_path):
    texts, labels = [f'a "quoted text {i}' for i in rows(60)], [i % 2 for i in rows(60)]
    cached(
        "nyu-mll/glue", "cola",
        {"train": {"sentence": texts, "label": labels}, "validation": {"sentence": ["x y"], "label": [1]}},
    )  # fmt: skip
    folder = tmp_path / "CoLA"
    folder.mkdir()
    lines = [
        f"gj04\t{label}\t{'' if label else '*'}\t{text}\n" for text, label in zip(texts, labels, strict=True)
    ]
    (folder / "train.tsv").write_text("".join(lines))
    (folder / "dev.tsv").write_text("gj04\t1\t\tx y\n")
    (folder / "test.tsv").write_text("index\tsentence\n0\tz\n")  # without labels, and never read
    hub, local = read("cola"), read("cola", path=str(folder))
    assert local.sha256 == hub.sha256 and local.labels == hub.labels == ("unacceptable", "acceptable")
    assert hub.settings["metrics"][0] == "matthews"


def test_any_table_of_the_hub_is_a_dataset_by_its_name(cached):
    part = {"q": [f"q{i}" for i in rows(60)], "a": [f"a{i}" for i in rows(60)]}
    cached("owner/questions", "default", {"train": part})
    raw = read("hub", name="owner/questions", kind="completion", prompt="Q: {q}\nA:", completion=" {a}")
    assert sum(map(len, raw.splits.values())) == 60 and raw.name == "owner/questions"
    turns = raw.splits["train"].turns[0]
    number = turns[0][1].removeprefix("Q: q").removesuffix("\nA:")
    assert turns == (("prompt", f"Q: q{number}\nA:"), ("completion", f" a{number}"))
    with pytest.raises(UserError, match=r"no column 'qq'.*Did you mean 'q'"):
        read("hub", name="owner/questions", kind="completion", prompt="{qq}", completion="{a}")
    with pytest.raises(UserError, match="is not in the hub's cache on this machine and cannot be read"):
        read("hub", name="owner/other")


def test_several_references_of_one_prompt_are_one_example_in_evaluation(tmp_path):
    table = ["mr,ref"]
    table += [f"name[{i // 2}],words {i}" for i in rows(240)]
    (tmp_path / "train.csv").write_text("\n".join(table) + "\n")
    (tmp_path / "test.csv").write_text("mr,ref\nname[x],one\nname[x],two\nname[y],three\n")
    raw = read("e2e_nlg", path=str(tmp_path))
    test = raw.splits["test"]
    assert sorted(zip((t[0][1] for t in test.turns), test.references, strict=True)) == [
        ("name[x] ||", ("one", "two")), ("name[y] ||", ("three",)),
    ]  # fmt: skip
    prompts = [t[0][1] for t in raw.splits["train"].turns]
    assert len(prompts) > len(set(prompts)) and not raw.splits["train"].references
    assert not set(prompts) & {t[0][1] for t in raw.splits["validation"].turns}


@pytest.mark.parametrize(
    ("label", "first", "right"), [(1, 0, 1), ("B", 0, 1), ("2", 1, 1), (2, 1, 1), ("no", 0, 1), (True, 0, 1)]
)
def test_the_right_option_is_a_number_a_letter_or_a_text(tmp_path, label, first, right):
    lines = [json.dumps({"question": f"q{i}", "label": label}) + "\n" for i in rows(60)]
    (tmp_path / "t.jsonl").write_text("".join(lines))
    raw = read(
        "hub", name="t", path=str(tmp_path / "t.jsonl"), kind="choice", choices=["yes", "no"],
        prompt="{question}?", first_option=first,
    )  # fmt: skip
    assert set(raw.splits["train"].labels) == {right}
    assert raw.splits["train"].options[0] == (" yes", " no")


def test_clincs_file_holds_its_splits_and_what_is_out_of_scope(tmp_path):
    content = {
        key: [[f"{key} {i}", "oos" if key.startswith("oos") else f"intent{i % 3}"] for i in rows(6)]
        for key in ("train", "oos_train", "val", "oos_val", "test", "oos_test")
    }
    (tmp_path / "data.json").write_text(json.dumps(content))
    raw = read("clinc150", path=str(tmp_path / "data.json"))
    assert {split: len(part) for split, part in raw.splits.items()} == dict.fromkeys(raw.splits, 12)
    assert raw.labels == ("intent0", "intent1", "intent2", "oos")


def test_lines_are_joined_to_articles(tmp_path):
    text = "".join(f" = Title {i} = \n\n Words {i} .\n = = Part = = \n More .\n" for i in rows(60))
    part = tmp_path / "copies" / "wikitext" / "train.jsonl"
    part.parent.mkdir(parents=True)
    lines = [json.dumps({"text": line}) + "\n" for line in text.splitlines(keepends=True)]
    part.write_text("".join(lines))
    raw = read("wikitext")
    assert sum(map(len, raw.splits.values())) == 60
    assert all(t.count("= Title") == 1 and "Part" in t and "More" in t for t in raw.splits["train"].texts)


def test_a_limit_takes_the_first_by_hash_and_leaves_the_data_what_it_is(tmp_path, spec_of):
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"w{i},{i % 2}\n" for i in rows(300)))
    own = {"path": str(tmp_path / "t.csv"), "text": "text", "label": "label"}
    whole, some = (spec_of(dataset="csv", **own, limit=limit) for limit in (None, 30))
    assert data.read(some).splits["train"].ids == data.read(whole).splits["train"].ids[:30]
    assert data.fingerprint(some) == data.fingerprint(whole)
    few = spec_of(dataset="csv", **own, train_limit=7)
    assert data.read(few).splits["train"].ids == data.read(whole).splits["train"].ids[:7]
    assert data.read(few).splits["test"] == data.read(whole).splits["test"]
    assert data.fingerprint(few) == data.fingerprint(whole)


def test_a_folder_without_what_is_needed_is_named(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"train": [["a", "b"]]}))
    with pytest.raises(UserError, match=r"has no 'oos_train'. It has: train"):
        read("clinc150", path=str(tmp_path / "t.json"))


def test_the_e2e_files_of_the_lora_paper_are_read_by_their_double_bars(tmp_path):
    lines = [
        f"name : The {n} | food : {f} | area : riverside||{n} ; a {f} place, it is 3 | 4 .\n"
        for n in ("Mill", "Oak", "Punter", "Eagle")
        for f in ("Thai", "Fast, food", "")
    ]
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("".join(lines) + lines[0].replace("a Thai", "one more"))
    raw = read("e2e_nlg", path=str(tmp_path))
    assert {split: len(rows) for split, rows in raw.splits.items()} == {
        "train": 13,
        "validation": 12,
        "test": 12,
    }
    told = {turns[0][1]: references for turns, references in zip(
        raw.splits["test"].turns, raw.splits["test"].references, strict=True
    )}  # fmt: skip
    assert set(told["name : The Mill | food : Thai | area : riverside ||"]) == {
        "Mill ; a Thai place, it is 3 | 4 .", "Mill ; one more place, it is 3 | 4 .",
    }  # fmt: skip
    assert any("separated by ||" in note for note in raw.notes)


@pytest.mark.parametrize("articles", [True, False])
def test_plain_text_is_read_by_its_lines_for_language_modelling(tmp_path, articles):
    article = " = Title {} = \n One, two | three . \n\n = = Part = = \n More ; text \n"
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.txt").write_text("".join(article.format(i) for i in range(3)))
    own = {} if articles else {"document": None}
    raw = read("wikitext", path=str(tmp_path), **own)
    assert [len(rows) for rows in raw.splits.values()] == [3 if articles else 1] * 3
    assert "".join(sorted(raw.splits["test"].texts)) == "".join(article.format(i) for i in range(3))


def test_lists_of_triples_are_spelled_as_text(tmp_path):
    lines = [{"tripleset": [[f"a{i}", "is", "b"], ["c", "has", "d"]], "target": f"t{i}"} for i in rows(90)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    turns = read("dart", path=str(tmp_path / "t.jsonl")).splits["train"].turns
    assert all(t[0][1].endswith(" : is : b | c : has : d ||") and "[" not in t[0][1] for t in turns)
