"""`rootstock models`: what is unpacked and what is not, what is left of a failure, who merges. The API is in
tests/service/test_exports.py."""

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock.adapters import Export, Manifest, put_tree, safe_name, unpack, whole_folder
from rootstock.adapters.tar import Member, length, stream
from rootstock.cli import exporting
from rootstock.cli.exporting import INTERRUPTED, Server, Wanted, export, list_models
from rootstock.errors import AdapterInvalid, ConfigurationError, ExportFailed, ImportStopped
from rootstock.importing.remote import ATTEMPTS
from rootstock.settings import Settings
from rootstock.storage import LocalStore
from tests.rootstock.adapter_files import FACTS, ID, write

NAME = "ft:Qwen/X:org:s:id123456"
FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json"]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def manifest(store: LocalStore, tmp_path: Path) -> Manifest:
    return put_tree(store, ID, write(tmp_path / "adapter"), **FACTS)


@pytest.fixture
def archive(store: LocalStore, manifest: Manifest) -> bytes:
    return b"".join(Export(store, manifest, NAME).stream())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def remade(archive: bytes, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], Any]) -> bytes:
    """The archive with its members changed, by `tarfile`."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as source:
        members = [(member, source.extractfile(member).read()) for member in source]
    change(members)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as target:
        for member, data in members:
            member.size = len(data)
            target.addfile(member, io.BytesIO(data))
    return made.getvalue()


def renamed(index: int, name: str) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], Any]:
    return lambda members: setattr(members[index][0], "name", name)


def linked(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members[2][0].type, members[2][0].linkname = tarfile.SYMTYPE, "/etc/passwd"
    members[2] = (members[2][0], b"")


def added(name: str) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], Any]:
    return lambda members: members.append((tarfile.TarInfo(name), b"import os"))


class TestTar:
    @given(st.lists(st.binary(max_size=3000), max_size=5), st.integers(0, 2**40), st.integers(1, 700))
    def test_tarfile_reads_what_was_framed_and_its_length_was_known(
        self, contents: list[bytes], mtime: int, step: int
    ) -> None:
        def member(number: int, data: bytes) -> Member:
            chunks = [data[start : start + step] for start in range(0, len(data), step)]
            return Member(f"file-{number}", len(data), lambda: chunks)

        members = [member(number, data) for number, data in enumerate(contents)]
        framed = b"".join(stream(members, mtime))
        assert len(framed) == length(members, mtime) and len(framed) % tarfile.RECORDSIZE == 0
        with tarfile.open(fileobj=io.BytesIO(framed)) as archive:
            assert [archive.extractfile(found).read() for found in archive] == contents

    @pytest.mark.parametrize("size", [2**33 - 1, 2**33, 2**45])
    def test_files_beyond_8_gib_have_a_header_that_says_so(self, size: int) -> None:
        header = next(stream([Member("model.safetensors", size, list)], 0))
        found: Any = tarfile.TarFile(fileobj=io.BytesIO(header), mode="r")
        assert found.firstmember.size == size
        assert length([Member("model.safetensors", size, list)], 0) > size


class TestNames:
    @pytest.mark.parametrize(
        ("model", "name"),
        [
            ("ft:tiny:acme::7p4lURel:ckpt-step-3", "ft-tiny-acme-7p4lURel-ckpt-step-3"),
            (NAME, "ft-Qwen-X-org-s-id123456"),
            ("../..", "model"),
            ("/etc/passwd", "etc-passwd"),
            ('a"b\\c%0d', "a-b-c-0d"),
        ],
    )
    def test_a_models_name_is_a_safe_one(self, model: str, name: str) -> None:
        assert safe_name(model) == name


class TestUnpack:
    def test_what_was_exported_comes_back(
        self, archive: bytes, manifest: Manifest, store: LocalStore, place: Path
    ) -> None:
        assert unpack(iter([archive]), place) == manifest
        assert names(place) == FILES
        for file in manifest.files:
            assert (place / file).read_bytes() == store.get_bytes(f"adapters/{ID}/{file}")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (renamed(2, "../adapter_config.json"), "which its manifest does not name"),
            (renamed(2, "/tmp/adapter_config.json"), "which its manifest does not name"),
            (renamed(2, "sub/adapter_config.json"), "which its manifest does not name"),
            (added("adapter_model.bin"), "'adapter_model.bin', which its manifest does not name"),
            (added("manifest.json"), "in a way that no export does"),
            (linked, "in a way that no export does"),
            (lambda members: members.pop(1), "'adapter_config.json', which its manifest does not name"),
            (lambda members: members.pop(), "adapter_model.safetensors is missing"),
            (lambda members: members.reverse(), "which its manifest does not name"),
            (lambda members: members.clear(), "holds no manifest"),
            (lambda members: members.__setitem__(1, (members[1][0], b"{}")), "manifest is not valid"),
            (lambda members: members.__setitem__(0, (members[0][0], bytes(2**21))), "README.md .* too large"),
            (lambda members: members.__setitem__(3, (members[3][0], members[3][1] + b"x")), "longer than its manifest"),
            (lambda members: members.__setitem__(3, (members[3][0], bytes(len(members[3][1])))), "another SHA-256"),
        ],
    )
    def test_any_other_archive_is_refused_and_nothing_is_written_elsewhere(
        self, archive: bytes, place: Path, tmp_path: Path, change: Any, reason: str
    ) -> None:
        before = names(tmp_path)
        with pytest.raises(AdapterInvalid, match=reason):
            unpack(iter([remade(archive, change)]), place)
        assert names(tmp_path) == before and set(names(place)) <= set(FILES)

    def test_a_cut_is_seen_wherever_it_is(self, archive: bytes, place: Path) -> None:
        ends = len(archive.rstrip(b"\0"))  # behind the last file there is nothing to lose
        for end in [*range(0, ends, 997), ends - 1]:
            with pytest.raises(AdapterInvalid):
                unpack(iter([archive[:end]]), place)

    @given(st.binary(max_size=2000))
    def test_anything_at_all_is_refused(self, data: bytes) -> None:
        with pytest.raises(AdapterInvalid):
            unpack(iter([data]), Path("/nonexistent"))


class TestWholeFolder:
    def break_off(self, out: Path) -> None:
        with whole_folder(out) as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt

    @pytest.mark.parametrize("there", [False, True])
    def test_it_is_there_at_the_end_or_not_at_all(self, place: Path, there: bool) -> None:
        out = place / "out"
        if there:
            out.mkdir()
        with pytest.raises(KeyboardInterrupt):
            self.break_off(out)
        assert out.exists() == there and names(place) == ["out"] * there and (not there or names(out) == [])
        with whole_folder(out) as folder:
            (folder / "file").touch()
            assert not (out / "file").exists()
        assert names(out) == ["file"] and names(place) == ["out"]

    def test_what_holds_something_is_left_alone(self, place: Path) -> None:
        (place / "mine").write_text("mine")
        for taken in (place, place / "mine"):
            with pytest.raises(ConfigurationError, match="is not an empty folder"), whole_folder(taken):
                raise AssertionError
        assert names(place) == ["mine"]

    def test_one_that_cannot_be_made_is_a_sentence(self, place: Path) -> None:
        (place / "file").touch()
        with pytest.raises(ConfigurationError, match="cannot be made"), whole_folder(place / "file" / "out"):
            raise AssertionError


class Answers(httpx.BaseTransport):
    """A Rootstock that exports an archive, cut off `cuts` times before; what it was asked."""

    def __init__(self, archive: bytes, cuts: int = 0) -> None:
        self.archive, self.cuts = archive, cuts
        self.asked: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        self.cuts -= 1
        return httpx.Response(
            200,
            headers={"content-length": str(len(self.archive))},
            stream=Cut(self.archive, len(self.archive) - 20_000) if self.cuts >= 0 else Cut(self.archive, None),
        )


class Cut(httpx.SyncByteStream):
    def __init__(self, data: bytes, end: int | None) -> None:
        self.data, self.end = data, end

    def __iter__(self) -> Any:
        yield self.data[: self.end]
        if self.end is not None:
            raise httpx.RemoteProtocolError("peer closed connection")


@pytest.fixture
def answers(archive: bytes) -> Answers:
    return Answers(archive)


@pytest.fixture
def server(answers: Answers, tmp_path: Path) -> Server:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "api-key").write_text("sk-rs-local\n")
    return Server(Settings(data_dir=tmp_path / "data"), None, None, transport=answers, sleep=lambda _: None)


def wanted(out: Path, **more: Any) -> Wanted:
    return Wanted(**{"model": NAME, "out": out, "format": "peft", "base": None} | more)


class TestExport:
    def test_it_is_saved_from_the_stack_on_this_machine(
        self, server: Server, answers: Answers, place: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert export(server, wanted(place)) == 0
        assert names(place) == FILES
        (asked,) = answers.asked
        assert asked.startswith("http://127.0.0.1:8000/v1/rootstock/models/ft%3AQwen%2FX")
        assert asked.endswith("/export?format=peft")
        said = capsys.readouterr().out
        assert f"{NAME}: " in said and f"Saved to {place}" in said

    def test_the_folder_is_named_like_the_model(
        self, server: Server, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(place)
        assert export(server, Wanted(NAME, None, "peft", None)) == 0
        assert names(place / "ft-Qwen-X-org-s-id123456") == FILES

    def test_a_cut_connection_starts_it_again(self, server: Server, answers: Answers, place: Path) -> None:
        answers.cuts = 2
        assert export(server, wanted(place)) == 0
        assert len(answers.asked) == 3 and names(place) == FILES

    def test_one_that_never_comes_whole_leaves_nothing(self, server: Server, answers: Answers, place: Path) -> None:
        answers.cuts = 99
        with pytest.raises(ImportStopped, match="peer closed connection"):
            export(server, wanted(place / "out"))
        assert len(answers.asked) == ATTEMPTS and names(place) == []

    def test_one_that_is_not_as_it_says_leaves_nothing_and_is_not_asked_for_again(
        self, server: Server, answers: Answers, place: Path
    ) -> None:
        answers.archive = remade(answers.archive, added("evil.py"))
        with pytest.raises(AdapterInvalid, match=r"'evil\.py'"):
            export(server, wanted(place / "out"))
        assert len(answers.asked) == 1 and names(place) == []

    def test_ctrl_c_leaves_nothing(
        self, server: Server, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def stop(*_: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr("rootstock.adapters.unpack", stop)
        assert export(server, wanted(place / "out")) == INTERRUPTED
        assert names(place) == [] and "Nothing was kept" in capsys.readouterr().out

    def test_a_full_folder_is_refused_before_anything_is_asked(
        self, server: Server, answers: Answers, place: Path
    ) -> None:
        (place / "mine").touch()
        with pytest.raises(ConfigurationError, match="is not an empty folder"):
            export(server, wanted(place))
        assert answers.asked == [] and names(place) == ["mine"]

    def test_the_local_key_goes_nowhere_else(self, server: Server, answers: Answers, place: Path) -> None:
        elsewhere = Server(server.settings, "https://tunes.example.com/v1", None, transport=answers)
        with pytest.raises(ConfigurationError, match=r"no key for https://tunes\.example\.com/v1; give --key"):
            export(elsewhere, wanted(place))
        with pytest.raises(ConfigurationError, match=r"no key for https://tunes\.example\.com/v1; give --key"):
            list_models(elsewhere)
        assert answers.asked == []


class TestMerged:
    """The trainer itself is in tests/trainer/test_merge.py; here its process is another one."""

    def trainer(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
        package = tmp_path / "other" / "trainer"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text("import sys\nfrom pathlib import Path\n" + code)
        monkeypatch.setenv("PYTHONPATH", str(package.parent))

    def test_the_trainer_merges_what_was_downloaded(
        self, server: Server, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.trainer(
            monkeypatch,
            tmp_path,
            "given = dict(zip(sys.argv[2::2], sys.argv[3::2]))\n"
            "out = Path(given['--out']); out.mkdir()\n"
            "seen = sorted(path.name for path in Path(given['--adapter']).iterdir())\n"
            "(out / 'config.json').write_text(f\"{sys.argv[1]} {given['--base']} {seen}\")\n",
        )
        assert export(server, wanted(place, format="merged", base="org/base")) == 0
        assert names(place) == ["config.json"]
        assert (place / "config.json").read_text() == f"merge org/base {FILES}"

    def test_a_folder_of_that_name_where_one_happens_to_be_is_not_run(
        self, server: Server, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.trainer(monkeypatch, tmp_path, "Path(sys.argv[-1]).mkdir()\n")
        (place / "trainer").mkdir()
        (place / "trainer" / "__main__.py").write_text("raise SystemExit(7)")
        monkeypatch.chdir(place)
        assert export(server, wanted(place / "out", format="merged")) == 0

    def test_when_it_fails_nothing_is_left(
        self, server: Server, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.trainer(monkeypatch, tmp_path, "sys.exit(2)\n")
        with pytest.raises(ExportFailed, match=r"could not be merged \(exit code 2\)"):
            export(server, wanted(place / "out", format="merged"))
        assert names(place) == []

    def test_without_the_trainers_packages_it_is_refused_before_anything_is_asked(
        self, server: Server, answers: Answers, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exporting, "_MERGER_NEEDS", ("torch", "no_such_package"))
        with pytest.raises(ConfigurationError, match="Merging needs no_such_package, which is not installed here"):
            export(server, wanted(place, format="merged"))
        assert answers.asked == []

    def test_a_base_belongs_to_merging(self, server: Server, answers: Answers, place: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"--base .* needs --format merged"):
            export(server, wanted(place, base="org/base"))
        assert answers.asked == []

    def test_the_command_line_never_loads_torch(self) -> None:
        code = "import sys, rootstock.cli.exporting as e; e._check_merger(); print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"
