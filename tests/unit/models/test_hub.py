"""Finding models, and what is said when there is none."""

from __future__ import annotations

import json
import socket
import ssl
import time
import urllib.error
from contextlib import suppress
from email.message import Message
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from jsarag.errors import BackendUnavailableError, CheckpointError, ConfigError
from jsarag.models import hub

from .conftest import bert_tokenizer, make_bert


def test_names_resolve_to_folders_or_hub_ids(tmp_path: Path) -> None:
    assert hub.resolve_model(str(tmp_path)) == str(tmp_path)
    assert hub.resolve_model("owner/name") == "owner/name"
    for wrong in ("/no/such/folder", "./nowhere", "a/b/c"):
        with pytest.raises(ConfigError, match=r"expected a folder with config\.json"):
            hub.resolve_model(wrong)
    assert hub.display_name(str(tmp_path)) == tmp_path.name
    assert hub.display_name("owner/name") == "owner/name"


def test_an_unreachable_model_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackendUnavailableError, match=r"model 'owner/missing-xyz': .*'minilm'"):
        hub.load_tokenizer("owner/missing-xyz")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BackendUnavailableError, match="loading failed with"):
        hub.load_model(str(tmp_path), AutoModel)


def test_without_a_network_a_hub_id_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client would repeat its requests for more than a minute."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody)
        began = time.monotonic()
        for load in (hub.load_tokenizer, hub.load_config):
            with pytest.raises(
                BackendUnavailableError, match=r"cannot be reached.*refused"
            ) as found:
                load("owner/missing-xyz")
        assert time.monotonic() - began < 5
    for alternative in ("'minilm'", "'smollm2'", "give its folder"):
        assert alternative in str(found.value)


def test_a_cached_model_needs_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cached = tmp_path / "models--owner--name"
    snapshot = cached / "snapshots" / "abc"
    bert_tokenizer().save_pretrained(snapshot)
    make_bert(bert_tokenizer()).save_pretrained(snapshot)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BackendUnavailableError, match="it is switched off"):
        hub.load_config("owner/other")
    assert hub._from_where("owner/name") == {"local_files_only": True}
    assert hub._from_where(str(tmp_path)) == {}


def test_any_answer_of_the_hub_is_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(error: Exception) -> str | None:
        def refuse(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("urllib.request.urlopen", refuse)
        return hub._trouble(f"http://hub/{error!r}")

    assert answer(urllib.error.HTTPError("", 401, "gated", Message(), None)) is None
    assert answer(urllib.error.URLError(ssl.SSLError("unknown authority"))) is None
    assert answer(urllib.error.URLError("no such host")) == "no such host"
    assert answer(TimeoutError("timed out")) == "timed out"


@pytest.mark.parametrize("known", [True, False], ids=["known architecture", "unknown architecture"])
def test_code_that_comes_with_a_model_never_runs(
    tmp_path: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, marker = tmp_path / "model", tmp_path / "marker"
    make_bert(bert_tokenizer()).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    (folder / "evil.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import BertConfig as Config, BertModel as Model\n"
        "from transformers import BertTokenizerFast as Tokenizer\n",
        encoding="utf-8",
    )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    if not known:
        config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["auto_map"] = {"AutoTokenizer": [None, "evil.Tokenizer"]}
    file.write_text(json.dumps(settings), encoding="utf-8")
    # Nobody is asked: reading an answer would raise, and a yes would run the file.
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))
    for load in (hub.load_config, hub.load_tokenizer, lambda name: hub.load_model(name, AutoModel)):
        if known:
            load(str(folder))
        else:
            with suppress(BackendUnavailableError):
                load(str(folder))
    if not known:
        with pytest.raises(BackendUnavailableError, match="custom code"):
            hub.load_config(str(folder))
    assert not marker.exists()


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    make_bert(bert_tokenizer()).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 1 weights of BertModel \(encoder.layer.1.output"):
        hub.load_model(str(tmp_path), AutoModel)


def test_models_load_in_f32_and_evaluation_mode(tmp_path: Path) -> None:
    make_bert(bert_tokenizer()).to(torch.bfloat16).train().save_pretrained(tmp_path)
    model = hub.load_model(str(tmp_path), AutoModel, attention="eager")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert model.config._attn_implementation == "eager"


def test_files_beside_a_model(tmp_path: Path) -> None:
    assert hub.read_model_json(str(tmp_path), "x.json") is None
    (tmp_path / "x.json").write_text('{"a": 1}', encoding="utf-8")
    assert hub.read_model_json(str(tmp_path), "x.json") == {"a": 1}
    (tmp_path / "x.json").write_text("[1]", encoding="utf-8")
    assert hub.read_model_json(str(tmp_path), "x.json") is None


def test_position_limit_is_the_smallest_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = bert_tokenizer()
    config = make_bert(tokenizer, positions=64).config
    assert hub.position_limit(config, tokenizer) == 64
    monkeypatch.setattr(tokenizer, "model_max_length", 40)
    assert hub.position_limit(config, tokenizer) == 40
    monkeypatch.setattr(tokenizer, "model_max_length", 10**30)
    assert hub.position_limit(object(), tokenizer) == 2**31


@pytest.mark.parametrize("kind", ["bin", "bin that ends early", "safetensors"])
def test_unreadable_weights_are_named(tmp_path: Path, kind: str) -> None:
    make_bert(bert_tokenizer()).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    if kind == "safetensors":
        weights.write_bytes(weights.read_bytes()[:-50])
    else:
        state = load_file(weights)
        weights.unlink()
        weights = tmp_path / "pytorch_model.bin"
        torch.save(state, weights)
        content = weights.read_bytes()
        weights.write_bytes(content[: len(content) // 2] if "early" in kind else b"no weights")
    says = rf"{tmp_path}: expected weights that can be read \({weights.name}\).*download the model"
    with pytest.raises(CheckpointError, match=says) as found:
        hub.load_model(str(tmp_path), AutoModel)
    assert found.value.exit_code == 4


def test_damaged_json_beside_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: expected JSON"):
        hub.read_model_json(str(tmp_path), "adapter_config.json")
