"""Errors of a node: under its display name, once, of the type that they had."""

import json

import pytest

from sdxl_anime_video.temporal.hosts.comfy.errors import NodeError, at_node


class HubError(ConnectionError):
    """As libraries derive them: other arguments."""

    def __init__(self, message, *, response):
        super().__init__(message)
        self.response = response


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("x is 3"), NodeError),
        (json.JSONDecodeError("x is 3", "{", 0), NodeError),
        (FileNotFoundError("x is 3"), FileNotFoundError),
        (HubError("x is 3", response=404), ConnectionError),
        (ModuleNotFoundError("x is 3"), ModuleNotFoundError),
    ],
)
def test_an_error_is_put_under_the_node(error, kind):
    @at_node("Save Clip")
    def execute():
        raise error

    with pytest.raises(kind, match=r"^Save Clip: x is 3") as caught:
        execute()
    assert type(caught.value) is kind and caught.value.__cause__ is error


def test_the_innermost_node_is_named_alone():
    with pytest.raises(NodeError, match=r"^Keyframe Anchor: x$"), at_node("Segment Chain"), at_node("Keyframe Anchor"):
        raise ValueError("x")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match=r"^x$"), at_node("Save Clip"):
        raise RuntimeError("x")
