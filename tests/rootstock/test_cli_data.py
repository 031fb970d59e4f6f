"""`rootstock data`: exit codes, the forms of the report, what is mended and held out."""

import json
from pathlib import Path

from typer.testing import CliRunner

from rootstock.cli.app import app
from tests.rootstock.quality_sets import CLEAN, chat, lines


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", *arguments])
    return result.exit_code, result.stdout


def saved(path: Path, *examples: object) -> str:
    path.write_bytes(b"\n".join(lines(*examples)) + b"\n")
    return str(path)


def test_exit_codes(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    assert run("check", saved(file, *CLEAN))[0] == 0
    assert run("check", saved(file, *CLEAN, CLEAN[0]))[0] == 1
    assert run("check", str(file), "--block", "exact_duplicate")[0] == 2
    assert run("check", saved(file, *CLEAN, chat("hello", "")))[0] == 1
    silent = chat("hello", "words without weight")
    silent["messages"][-1]["weight"] = 0
    assert run("check", saved(file, *CLEAN, silent))[0] == 2
    assert run("check", saved(file, *CLEAN, b"{"))[0] == 3


def test_the_report_as_json_and_as_a_page(tmp_path: Path) -> None:
    file = saved(tmp_path / "train.jsonl", *CLEAN, CLEAN[0])
    held = saved(tmp_path / "held.jsonl", CLEAN[1])
    code, text = run("check", file, "--validation", held, "--json", "--html", str(tmp_path / "report.html"))
    told = json.loads(text)
    assert code == 2
    assert [(f["kind"], f["file"], f["lines"]) for f in told["findings"]] == [
        ("split_leak", "validation", [1]),
        ("exact_duplicate", "training", [1, 21]),
    ]
    assert set(told["findings"][0]) == {"kind", "severity", "file", "lines", "message", "cure"}
    assert "split_leak" in (tmp_path / "report.html").read_text()


def test_the_table_names_lines_and_cures(tmp_path: Path) -> None:
    _, text = run("check", saved(tmp_path / "train.jsonl", *CLEAN, CLEAN[0]))
    assert "exact_duplicate" in text and "1, 21" in text and "Keep one of them" in " ".join(text.split())


def test_fix_takes_copies_and_leaks_out_and_mends_text(tmp_path: Path) -> None:
    broken = chat("Wie schÃ¶n ist die GrÃ¶ÃŸe?", "In our shop.")
    file = saved(tmp_path / "train.jsonl", *CLEAN, CLEAN[0], broken)
    held = saved(tmp_path / "held.jsonl", CLEAN[1], chat("Is it raining in the mountains today?", "No."))
    assert run("fix", file, "--validation", held, "--out", str(tmp_path / "clean"))[0] == 0
    clean = (tmp_path / "clean" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(clean) == 21
    assert "Wie schön ist die Größe?" in clean[-1]
    assert len((tmp_path / "clean" / "held.jsonl").read_text().splitlines()) == 1
    diff = (tmp_path / "clean" / "changes.diff").read_text(encoding="utf-8")
    assert "@@ -21,1 +20,0 @@" in diff and "@@ -22,1 +21,1 @@" in diff
    assert (
        run("check", str(tmp_path / "clean" / "train.jsonl"), "--validation", str(tmp_path / "clean" / "held.jsonl"))[0]
        == 0
    )


def test_split_writes_two_files_that_make_up_the_first(tmp_path: Path) -> None:
    file = saved(tmp_path / "all.jsonl", *CLEAN)
    assert run("split", file, "--share", "0.2", "--out", str(tmp_path))[0] == 0
    parts = [(tmp_path / f"all-{name}.jsonl").read_text().splitlines() for name in ("train", "validation")]
    assert len(parts[1]) == 4
    assert sorted(parts[0] + parts[1]) == sorted(Path(file).read_text().splitlines())


def test_a_missing_file_and_an_unknown_kind_are_explained(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path / "none.jsonl")])
    assert "There is no file" in str(result.exception)
    result = CliRunner().invoke(app, ["data", "check", saved(tmp_path / "a.jsonl", *CLEAN), "--block", "typo"])
    assert "no kind of finding 'typo'" in str(result.exception)
