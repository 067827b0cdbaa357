"""The flat index finds what is there, says which generation it is, and survives the disk."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from jsarag import ops
from jsarag.errors import CheckpointError, DataError, DtypeError, IndexStaleError, ShapeError
from jsarag.index.flat import FlatIndex
from jsarag.index.interfaces import index_spec
from jsarag.index.rebuild import build_index
from jsarag.index.store import PassageStore
from jsarag.io.digests import FileRecord
from jsarag.io.records import without_seal, write_record
from jsarag.types import Passage


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_search_is_exact_and_carries_its_generation() -> None:
    embeddings, queries = random(300, 16), random(5, 16, seed=1)
    index = FlatIndex(embeddings, generation=3)
    result = index.search(queries, 7)
    expected = (queries @ embeddings.t()).topk(7)
    assert result.ids.tolist() == expected.indices.tolist()
    torch.testing.assert_close(result.scores, expected.values, atol=1e-4, rtol=1e-4)
    assert result.generation == 3
    assert len(index) == 300
    assert index.width == 16


def test_excluded_rows_do_not_come_back() -> None:
    embeddings, queries = random(40, 8), random(2, 8, seed=1)
    index = FlatIndex(embeddings)
    best = index.search(queries, 3).ids
    exclude = torch.stack([best[0, :2], torch.tensor([best[1, 0], -1])])
    again = index.search(queries, 2, exclude)
    assert again.ids[0, 0] == best[0, 2]
    assert again.ids[1].tolist() == best[1, 1:].tolist()


def test_k_beyond_the_index_is_padded() -> None:
    result = FlatIndex(random(3, 4)).search(random(1, 4, seed=1), 5)
    assert sorted(result.ids[0, :3].tolist()) == [0, 1, 2]
    assert result.ids[0, 3:].tolist() == [-1, -1]
    assert result.scores[0, 3:].tolist() == [-torch.inf, -torch.inf]


def test_scan_gives_the_log_partition_and_draws_have_its_density() -> None:
    embeddings, queries = random(2 * ops.TILE + 5, 8), random(3, 8, seed=1)
    index, inv_temperature = FlatIndex(embeddings, generation=1), 2.0
    scan = index.scan(queries, 4, inv_temperature)
    scores = (queries.double() @ embeddings.double().t()) * inv_temperature
    assert scan.tile_lse is not None
    assert scan.tile_lse.shape == (3, 3)
    expected = scores.logsumexp(dim=1)
    torch.testing.assert_close(
        scan.tile_lse.double().logsumexp(dim=1), expected, atol=1e-4, rtol=1e-5
    )
    torch.testing.assert_close(
        index.log_partition(queries, inv_temperature).double(), expected, atol=1e-4, rtol=1e-5
    )
    uniforms = torch.rand(3, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    draws = index.draw(queries, inv_temperature, scan.tile_lse, uniforms, generation=1)
    torch.testing.assert_close(
        draws.logp.double(),
        scores.log_softmax(dim=1).gather(1, draws.ids.long()),
        atol=1e-4,
        rtol=1e-4,
    )
    assert draws.generation == 1
    assert index.scan(queries, 4, inv_temperature, tile_lse=False).tile_lse is None


def test_generations_never_mix() -> None:
    old, new = FlatIndex(random(20, 4), 1), FlatIndex(random(20, 4, seed=5), 2)
    queries = random(1, 4, seed=1)
    scan = old.scan(queries, 2, 1.0)
    assert scan.tile_lse is not None
    uniforms = torch.full((1, 1), 0.5, dtype=torch.float64)
    with pytest.raises(IndexStaleError, match="generation 2, found generation 1"):
        new.draw(queries, 1.0, scan.tile_lse, uniforms, generation=scan.generation)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_vectors_come_back_as_f32(dtype: torch.dtype) -> None:
    embeddings = random(10, 4).to(dtype)
    picked = FlatIndex(embeddings).vectors(torch.tensor([7, 0, 7]))
    assert picked.dtype == torch.float32
    assert picked.equal(embeddings[[7, 0, 7]].float())


def test_the_index_is_cut_off_from_autograd() -> None:
    parameter = torch.nn.Parameter(random(4, 3))
    assert not FlatIndex(parameter).embeddings.requires_grad


def test_wrong_tensors_are_refused() -> None:
    with pytest.raises(ShapeError, match="expected \\[N, D\\]"):
        FlatIndex(random(3))
    with pytest.raises(DtypeError, match="int64"):
        FlatIndex(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(DtypeError, match="float64"):
        FlatIndex(torch.zeros(1, 1, dtype=torch.float64)).save("never", _One())


class _One:
    """A knowledge base of one passage."""

    digest = "one"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, row: int) -> Passage:
        return Passage("a", "b")


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("shard_bytes", [1, 4 << 30])
def test_the_disk_keeps_every_bit(
    tmp_path: Path, encoder: Any, make_passages: Any, render: Any, dtype: str, shard_bytes: int
) -> None:
    kb = make_passages(ops.TILE + 3)
    index = build_index(encoder, kb, passage_text=render, dtype=dtype, generation=4)
    manifest = index.save(tmp_path / "index", kb, {"name": "animals"}, shard_bytes=shard_bytes)
    assert len(manifest.shards) == (2 if shard_bytes == 1 else 1)
    opened = FlatIndex.open(tmp_path / "index", index_spec(encoder, kb.digest))
    assert opened.embeddings.dtype == index.embeddings.dtype
    assert opened.embeddings.equal(index.embeddings)
    assert opened.generation == 4
    assert opened.spec == index.spec
    queries = encoder.embed(["the wolf number5 lives here"], "query", 1)
    assert opened.search(queries, 3).ids.tolist() == index.search(queries, 3).ids.tolist()
    head = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert head["count"] == len(kb)
    assert head["dtype"] == dtype
    assert head["extra"] == {"name": "animals"}
    assert head["encoder"]["weights_digest"] == "w0"


def test_vectors_beyond_memory_are_mapped_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Any, kb: Any
) -> None:
    monkeypatch.setattr("jsarag.index.flat.available_memory_bytes", lambda: 6000)
    index = FlatIndex(random(50, 24))
    index.save(tmp_path / "index", kb)
    FlatIndex.open(tmp_path / "index")  # 4,800 bytes of 6,000
    maps = Path("/proc/self/maps")
    assert str(tmp_path) not in maps.read_text()  # nothing leaks
    opened = FlatIndex.open(tmp_path / "index")
    assert str(tmp_path) in maps.read_text()
    before = (tmp_path / "index" / "vectors-00000.bin").read_bytes()
    opened.embeddings.zero_()  # a stray write stays in this process
    assert (tmp_path / "index" / "vectors-00000.bin").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"pooling": "cls"}, "pooling"),
        ({"passage_prefix": "passage: "}, "passage_prefix"),
        ({"max_passage_tokens": 65}, "max_passage_tokens"),
        ({"normalise": False}, "normalise"),
        ({"tokenizer_digest": "t1"}, "tokenizer_digest"),
    ],
)
def test_another_encoder_is_named(
    tmp_path: Path, encoder: Any, kb: Any, render: Any, change: dict[str, Any], field: str
) -> None:
    build_index(encoder, kb, passage_text=render).save(tmp_path / "index", kb)
    encoder.spec = dataclasses.replace(encoder.spec, **change)
    with pytest.raises(IndexStaleError, match=rf"{field}: the index has") as caught:
        FlatIndex.open(tmp_path / "index", index_spec(encoder))
    assert str(caught.value).count("the index has") == 1


def test_other_weights_or_passages_are_named(
    tmp_path: Path, encoder: Any, kb: Any, make_passages: Any, render: Any
) -> None:
    build_index(encoder, kb, passage_text=render).save(tmp_path / "index", kb)
    encoder.weights = "w1"
    with pytest.raises(IndexStaleError, match="weights_digest"):
        FlatIndex.open(tmp_path / "index", index_spec(encoder))
    encoder.weights = "w0"
    with pytest.raises(IndexStaleError, match="kb_digest"):
        FlatIndex.open(tmp_path / "index", index_spec(encoder, make_passages(49).digest))
    with pytest.raises(IndexStaleError, match="generation: the index has 0, expected 1"):
        FlatIndex.open(tmp_path / "index", {"generation": 1})
    with pytest.raises(IndexStaleError, match="no_such_field"):
        FlatIndex.open(tmp_path / "index", {"no_such_field": 1})


def test_the_same_weights_under_another_name_are_the_same_encoder(
    tmp_path: Path, encoder: Any, kb: Any, render: Any
) -> None:
    build_index(encoder, kb, passage_text=render).save(tmp_path / "index", kb)
    encoder.spec = dataclasses.replace(encoder.spec, model="elsewhere/words")
    assert len(FlatIndex.open(tmp_path / "index", index_spec(encoder))) == 50


def test_saving_with_other_passages_is_refused(
    tmp_path: Path, encoder: Any, kb: Any, make_passages: Any, render: Any
) -> None:
    index = build_index(encoder, kb, passage_text=render)
    with pytest.raises(DataError, match=r"vectors \(50\), found 49"):
        index.save(tmp_path / "index", make_passages(49))
    other = make_passages(50)
    other.passages[3] = Passage("p3", "changed")
    with pytest.raises(DataError, match="digest"):
        index.save(tmp_path / "index", other)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("damage", ["no manifest", "short", "missing", "unfinished", "format"])
def test_damage_is_named(tmp_path: Path, encoder: Any, kb: Any, render: Any, damage: str) -> None:
    folder = tmp_path / "index"
    build_index(encoder, kb, passage_text=render).save(folder, kb)
    vectors, manifest = folder / "vectors-00000.bin", folder / "manifest.json"
    match damage:
        case "no manifest":
            manifest.unlink()
        case "short":
            vectors.write_bytes(vectors.read_bytes()[:-1])
        case "missing":
            vectors.unlink()
        case "unfinished":
            (folder / "COMPLETE").unlink()
        case "format":
            manifest.write_text('{"format_version": 1}')
    expected = {
        "no manifest": r"manifest\.json",
        "short": r"vectors-00000\.bin: expected 4800 bytes, found 4799",
        "missing": r"vectors-00000\.bin: the file is missing",
        "unfinished": "COMPLETE: the file is missing",
        "format": r"manifest\.json: expected every field",
    }[damage]
    with pytest.raises(CheckpointError, match=expected):
        FlatIndex.open(folder)


def test_a_rebuilt_index_replaces_the_old_while_it_is_in_use(
    tmp_path: Path, encoder: Any, kb: Any, render: Any
) -> None:
    folder = tmp_path / "index"
    build_index(encoder, kb, passage_text=render).save(folder, kb)
    old = FlatIndex.open(folder)
    before = old.embeddings.clone()
    encoder.weights = "w1"
    build_index(encoder, kb, passage_text=render, generation=1).save(folder, kb)
    assert old.embeddings.equal(before)
    new = FlatIndex.open(folder, {"generation": 1, "weights_digest": "w1"})
    assert not new.embeddings.equal(before)


def test_an_empty_index(tmp_path: Path, make_passages: Any) -> None:
    FlatIndex(torch.empty(0, 4)).save(tmp_path / "index", make_passages(0))
    opened = FlatIndex.open(tmp_path / "index")
    assert opened.embeddings.shape == (0, 4)
    assert len(PassageStore(tmp_path / "index")) == 0


def test_the_store_gives_passages_back(tmp_path: Path, make_passages: Any) -> None:
    kb = make_passages(2)
    kb.passages.append(
        Passage(
            "ü/3",
            "line\nbreak \u2028 \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
            "",
            {"year": 1999},
        )
    )
    FlatIndex(random(3, 4)).save(tmp_path / "index", kb)
    store = PassageStore(tmp_path / "index")
    assert [store[row] for row in range(len(store))] == kb.passages
    assert store.digest == kb.digest
    with pytest.raises(IndexError):
        store[3]
    with pytest.raises(IndexError):
        store[-1]
    offsets = tmp_path / "index" / "passages.offsets"
    offsets.write_bytes(offsets.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"passages\.offsets: expected 32 bytes, found 24"):
        PassageStore(tmp_path / "index")
    with pytest.raises(DataError, match=r"passages\.offsets"):
        PassageStore(tmp_path / "index", check=False)


def test_a_store_that_changes_in_use_is_noticed(tmp_path: Path, make_passages: Any) -> None:
    kb = make_passages(3000)  # four blocks
    FlatIndex(random(3000, 4)).save(tmp_path / "index", kb)
    path = tmp_path / "index" / "passages.jsonl"
    store, unchecked = (PassageStore(tmp_path / "index", check=check) for check in (True, False))
    assert [store[row] for row in range(3000)] == kb.passages
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)  # in place: the same file is open
    with pytest.raises(CheckpointError, match=r"passages\.jsonl: .* while it was in use \(near"):
        store[9]
    assert store[2999] == kb[2999]  # its block is as it was
    assert unchecked[2999] == kb[2999]
    os.truncate(path, 1000)
    for opened in (store, unchecked):
        with pytest.raises(CheckpointError, match=r"while it was in use \(it ends at byte"):
            opened[2999]


def test_vectors_in_memory_survive_what_becomes_of_their_file(tmp_path: Path, kb: Any) -> None:
    FlatIndex(random(50, 24)).save(tmp_path / "index", kb)
    opened = FlatIndex.open(tmp_path / "index")
    before = opened.embeddings.clone()
    os.truncate(tmp_path / "index" / "vectors-00000.bin", 0)
    assert opened.embeddings.equal(before)


@pytest.mark.parametrize("available", [1 << 40, 0])
@pytest.mark.parametrize("damage", ["bit", "zeros", "rows", "nan"])
def test_damaged_vectors_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kb: Any, damage: str, available: int
) -> None:
    monkeypatch.setattr("jsarag.index.flat.available_memory_bytes", lambda: available)
    FlatIndex(random(50, 24)).save(tmp_path / "index", kb)
    path = tmp_path / "index" / "vectors-00000.bin"
    content = bytearray(path.read_bytes())
    row = 24 * 4
    match damage:
        case "bit":
            content[1003] ^= 64  # an exponent
        case "zeros":
            content[row : 2 * row] = bytes(row)
        case "rows":
            content[: 2 * row] = content[row : 2 * row] + content[:row]
        case "nan":
            content[:row] = torch.full((24,), torch.nan).numpy().tobytes()
    path.write_bytes(content)
    found = r"vectors-00000\.bin: expected xxh3_128 .*, found .*; build the index again"
    with pytest.raises(CheckpointError, match=found):
        FlatIndex.open(tmp_path / "index")
    assert len(FlatIndex.open(tmp_path / "index", check=False)) == 50


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/hostname", "a/b", "..", "", 7, "a\0b"])
@pytest.mark.parametrize("kind", ["shards", "passages"])
def test_names_in_a_manifest_stay_inside_the_folder(
    tmp_path: Path, kb: Any, kind: str, name: Any
) -> None:
    FlatIndex(random(50, 4)).save(tmp_path / "index", kb)
    path = tmp_path / "index" / "manifest.json"
    head = without_seal(json.loads(path.read_text()))
    if kind == "shards":
        head["shards"][0]["file"] = name
    else:
        head["passages"][str(name) if name != 7 else "c/7"] = head["passages"]["passages.jsonl"]
    write_record(path, head)
    with pytest.raises(CheckpointError, match=r"manifest\.json: .*no name of a file in this"):
        FlatIndex.open(tmp_path / "index")


def test_an_index_of_the_first_format_is_read(tmp_path: Path, kb: Any) -> None:
    FlatIndex(random(50, 4)).save(tmp_path / "index", kb)
    path = tmp_path / "index" / "manifest.json"
    head = {**without_seal(json.loads(path.read_text())), "format_version": 1}
    for entry in (*head["shards"], *head["passages"].values()):
        del entry["xxh3_128"]
    for name, entry in (("vectors-00000.bin", head["shards"][0]), *head["passages"].items()):
        entry["sha256"] = FileRecord.of(tmp_path / "index" / name, "sha256").digest
    path.write_text(json.dumps(head))
    assert len(FlatIndex.open(tmp_path / "index")) == 50
    assert PassageStore(tmp_path / "index")[3] == kb[3]
    (tmp_path / "index" / "vectors-00000.bin").write_bytes(bytes(800))
    with pytest.raises(CheckpointError, match=r"vectors-00000\.bin: expected sha256"):
        FlatIndex.open(tmp_path / "index")
    path.write_text(json.dumps({**head, "format_version": 2}))
    with pytest.raises(CheckpointError, match=r"manifest\.json: expected a 'checksum', found none"):
        FlatIndex.open(tmp_path / "index")


def test_a_flipped_digit_in_a_manifest_is_found(tmp_path: Path, kb: Any) -> None:
    FlatIndex(random(50, 4), generation=3).save(tmp_path / "index", kb)
    path = tmp_path / "index" / "manifest.json"
    path.write_text(path.read_text().replace('"generation": 3', '"generation": 2'))
    with pytest.raises(CheckpointError, match=r"manifest\.json: expected content with the check"):
        FlatIndex.open(tmp_path / "index")


def test_moving_to_where_it_is_makes_no_copy_and_never_changes_the_index() -> None:
    index = FlatIndex(torch.eye(3), 2, {"model": "m"})
    assert index.to(torch.device("cpu")) is index
    moved = index.to(torch.device("meta"))
    assert (moved.embeddings.device.type, moved.generation, moved.spec) == (
        "meta",
        2,
        {"model": "m"},
    )
    assert index.embeddings.device.type == "cpu"
