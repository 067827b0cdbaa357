"""GGUF files: found, converted once, and nothing half done is ever taken for a conversion."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from jsarag.errors import BackendUnavailableError, ConfigError
from jsarag.io.atomic import is_complete
from jsarag.models import gguf, hub
from jsarag.models.packaged import PACKAGED, SMOLLM2, PackagedModel, packaged_path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JSARAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.Q4.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    return path


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the packages that read such files were there."""
    monkeypatch.setattr(gguf, "_NEEDED", ("json",))


def write_config(file: Path, folder: Path) -> None:
    (folder / "config.json").write_text(file.name, encoding="utf-8")


def test_a_path_means_one_file_or_none(file: Path, tmp_path: Path) -> None:
    assert gguf.find_gguf(file) == file
    assert gguf.find_gguf(tmp_path) == file
    second = tmp_path / "other.gguf"
    second.write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match=r"found 2 \(other\.gguf, tiny\.Q4\.gguf\); name the fil"):
        gguf.find_gguf(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert gguf.find_gguf(tmp_path) is None
    assert gguf.find_gguf(tmp_path / "missing") is None


def test_names_and_needs(file: Path, tmp_path: Path) -> None:
    assert hub.display_name(str(file)) == "tiny.Q4"
    assert hub.display_name(SMOLLM2) == "smollm2"
    assert hub.needs_conversion(str(file))
    for other in ("owner/name", "minilm", str(tmp_path / "missing.gguf")):
        assert not hub.needs_conversion(other)
    with pytest.raises(ConfigError, match=r"'no\.gguf': expected a folder .*GGUF file"):
        hub.resolve_model("no.gguf")


@pytest.mark.usefixtures("readers")
def test_a_file_is_converted_once_and_found_by_content(file: Path, cache: Path) -> None:
    calls = []

    def convert(source: Path, folder: Path) -> None:
        calls.append(source)
        write_config(source, folder)

    folder = gguf.converted(file, convert)
    assert folder.parent == cache / "models"
    assert (folder / "config.json").read_text(encoding="utf-8") == file.name
    assert gguf.is_converted(file)
    file.touch()  # as after installing the package again
    assert gguf.converted(file, convert) == folder
    file.write_bytes(b"GGUF" + bytes(59) + b"x")
    assert gguf.converted(file, convert) != folder
    assert len(calls) == 2


@pytest.mark.usefixtures("readers")
def test_a_conversion_cut_off_leaves_nothing(file: Path, cache: Path) -> None:
    def cut_off(source: Path, folder: Path) -> None:
        write_config(source, folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gguf.converted(file, cut_off)
    assert not gguf.is_converted(file)
    assert [path for path in (cache / "models").iterdir() if path.is_dir()] == []
    assert is_complete(gguf.converted(file, write_config))


@pytest.mark.usefixtures("readers")
def test_two_that_want_one_file_convert_it_once(file: Path) -> None:
    started, go_on = threading.Event(), threading.Event()
    calls, folders = [], []

    def convert(source: Path, folder: Path) -> None:
        calls.append(source)
        started.set()
        assert go_on.wait(10)
        write_config(source, folder)

    def want() -> None:
        folders.append(gguf.converted(file, convert))

    threads = [threading.Thread(target=want) for _ in range(2)]
    threads[0].start()
    assert started.wait(10)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(calls) == 1
    assert len(folders) == 2
    assert folders[0] == folders[1]


def test_missing_readers_say_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "_NEEDED", ("no_such_reader",))
    assert not gguf.can_convert()
    with pytest.raises(BackendUnavailableError, match=r"no_such_reader, .*'jsarag\[lm\]'"):
        hub.resolve_model(str(file))


def test_what_is_no_gguf_is_named(file: Path, tmp_path: Path) -> None:
    file.write_bytes(b"<html>not found</html>")
    with pytest.raises(ConfigError, match=r"tiny\.Q4\.gguf: expected a GGUF file.*b'<htm'"):
        hub.resolve_model(str(tmp_path))


@pytest.mark.skipif(not gguf.can_convert(), reason="gguf and accelerate are not installed")
def test_a_broken_file_is_named_and_leaves_nothing(file: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"tiny\.Q4\.gguf: .* reading it failed with"):
        hub.resolve_model(str(file))
    assert not gguf.is_converted(file)


def test_the_cache_s_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert gguf.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("JSARAG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert gguf.cache_folder() == Path("/x/jsarag")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert gguf.cache_folder() == Path("/home/somebody/.cache/jsarag")


@pytest.mark.parametrize("name", sorted(PACKAGED))
def test_a_missing_package_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = PACKAGED[name]
    gone = PackagedModel(name, "no_such_package_here", known.inside, known.kind, known.install)
    monkeypatch.setitem(PACKAGED, name, gone)
    with pytest.raises(BackendUnavailableError, match=r"holds this .*Run `pip install") as caught:
        packaged_path(name)
    assert known.install in str(caught.value)
    assert not hub.needs_conversion(name)
    # So does an adapter whose base came from such a package on another machine.
    with pytest.raises(BackendUnavailableError, match=f"model '{name}'"):
        hub.resolve_model(f"/elsewhere/no_such_package_here/{known.inside}")
