"""How the harness of these tests takes arguments to a GPU, seen on the meta device."""

from __future__ import annotations

import torch

from jsarag import ops


def test_members_of_a_named_tuple_are_taken_along(move):
    errors = ops.RowErrors(torch.ones(3), torch.ones(3))
    there = move(errors, "meta")
    assert isinstance(there, ops.RowErrors)
    assert there.error.device.type == there.norm.device.type == "meta"


def test_a_layout_is_kept(move):
    view = torch.arange(40.0).view(5, 8)[1:4, 2:7:2]
    there = move(view, "meta")
    assert there.device.type == "meta"
    assert there.size() == view.size()
    assert there.stride() == view.stride()
    assert there.storage_offset() == view.storage_offset()
    assert torch.equal(move(view, "cpu"), view)


def test_what_is_no_tensor_comes_back_as_it_is(move):
    assert move(None, "meta") is None
    assert move(0.5, "meta") == 0.5
    assert move((1, 2), "meta") == (1, 2)
