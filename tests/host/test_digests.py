"""Digests of single objects: equal content, equal digest, in any process."""

from functools import partial

import comfy.controlnet
import comfy.t2i_adapter.adapter
import comfy_extras.nodes_model_advanced as advanced
import pytest
import torch

from clip_sampling import controlled, model
from resuming import hooked
from sdxl_anime_video.temporal.hosts.comfy.resume.digests import Digests


def t2i(strength=1.0, seed=0):
    torch.manual_seed(seed)
    network = comfy.t2i_adapter.adapter.Adapter_light(cin=192, channels=[8, 8], nums_rb=1)
    control = comfy.controlnet.T2IAdapter(network, 3, 8, "nearest-exact", device="cpu")
    return control.set_cond_hint(torch.zeros(1, 3, 16, 16), strength)


def with_extra(**extra):
    control = controlled(torch.zeros(1, 16, 16, 3))[0][0][1]["control"]
    for name, value in extra.items():
        control.set_extra_arg(name, value)
    return control


def enclosing(value, also=None):
    return lambda x, by=also: (x, value, by)


class Seen:
    """Like the output of a CLIP vision model: a class with some attributes."""

    def __init__(self, value):
        self.image_embeds = torch.full((1, 3), float(value))


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


def holding_itself(value):
    found = [value]
    found.append({"again": found})
    return found


def sampled_as(kind):
    return advanced.ModelSamplingDiscrete().patch(model(), kind, False)[0].get_model_object("model_sampling")


PAIRS = {
    "closure": (lambda: enclosing(1), lambda: enclosing(2)),
    "default": (lambda: enclosing(1, 2), lambda: enclosing(1, 3)),
    "code": (lambda: lambda x: x + 1, lambda: lambda x: x + 2),
    "partial": (lambda: partial(pow, 2), lambda: partial(pow, 3)),
    "method": (lambda: Seen(1).__init__, lambda: Seen(2).__init__),
    "object": (lambda: Seen(1), lambda: Seen(2)),
    "slots": (lambda: Slotted(1), lambda: Slotted(2)),
    "cycle": (lambda: holding_itself(1), lambda: holding_itself(2)),
    "set": (lambda: {"a", "b", 1}, lambda: {"a", "c", 1}),
    "hooks": (lambda: hooked(0.1), lambda: hooked(0.2)),
    "t2i strength": (t2i, lambda: t2i(0.5)),
    "t2i weights": (t2i, lambda: t2i(seed=1)),
    "controlnet": (lambda: with_extra(control_type=[1]), lambda: with_extra(control_type=[2])),
    "prediction": (lambda: sampled_as("eps"), lambda: sampled_as("v_prediction")),
}


@pytest.mark.parametrize("name", PAIRS)
def test_things_are_told_apart_by_what_they_hold(name):
    one, another = PAIRS[name]
    digests = Digests()
    assert digests.digest(one()) == Digests().digest(one()) != Digests().digest(another())
    assert not digests.by_kind_only


def test_what_a_node_has_computed_is_no_setting():
    """Core's Self-Attention Guidance and other nodes keep computed values in variables of an enclosing function."""

    def patch(setting):
        computed = None

        def show():
            return setting, computed

        def compute():
            nonlocal computed
            computed = torch.rand(3)

        return show, compute

    functions = patch(1)
    before = Digests().digest(functions)
    functions[1]()
    assert Digests().digest(functions) == before == Digests().digest(patch(1)) != Digests().digest(patch(2))


def test_a_nesting_without_end_counts_by_its_kind():
    deep = []
    for _ in range(5000):
        deep = [deep]
    digests = Digests()
    assert digests.digest(deep) == "" and digests.by_kind_only == ["builtins.list"]
