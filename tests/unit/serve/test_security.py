"""Keys, and which addresses may be offered without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from jsarag.errors import ConfigError
from jsarag.serve.security import check_bind, read_api_key


def test_the_file_wins_over_the_variable_and_loses_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n", encoding="utf-8")
    assert read_api_key({"JSARAG_API_KEY": "x"}, file) == "from-file"
    assert read_api_key({"JSARAG_API_KEY": " x "}) == "x"
    assert read_api_key({}) is None


def test_a_blank_key_is_refused_instead_of_serving_openly(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(" \n", encoding="utf-8")
    with pytest.raises(ConfigError, match="found none"):
        read_api_key({}, file)
    with pytest.raises(ConfigError, match="JSARAG_API_KEY"):
        read_api_key({"JSARAG_API_KEY": "  "})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_api_key({}, tmp_path / "absent")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.5.5", "localhost", "::1", "[::1]"])
def test_this_machine_needs_no_key(host: str) -> None:
    check_bind(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "10.0.0.3", "example.org"])
def test_other_addresses_need_a_key_or_insistence(host: str) -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        check_bind(host, None)
    with pytest.raises(ConfigError):
        check_bind(host, "")
    check_bind(host, "key")
    check_bind(host, None, insecure=True)
