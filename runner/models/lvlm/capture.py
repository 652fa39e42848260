"""A network run in two halves: up to its language decoder (vision tower, projector, embedding), and the decoder itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runner.models.lvlm.anatomy import Anatomy, anatomy

if TYPE_CHECKING:
    from torch import Tensor


_NOT_ITS_OWN = ("past_key_values", "use_cache", "logits_to_keep", "return_dict")


class _Reached(Exception):
    """Raised inside a forward to end it where the decoder would begin."""


def decoder_inputs(network: Any, batch: Mapping[str, Any], found: Anatomy | None = None) -> dict[str, Any]:
    """The keyword arguments with which the network calls its decoder for this batch: ``inputs_embeds`` [B, S, D] (pictures in their
    places), ``attention_mask``, ``position_ids`` ... The decoder itself does not run; labels are left out.

    In the caller's gradient mode; on the network's device, where the batch must be.
    """
    found = found or anatomy(network)
    caught: dict[str, Any] = {}

    def catch(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = ("input_ids", "attention_mask", "position_ids")
        caught.update(kwargs | dict(zip(names, args, strict=False)))
        raise _Reached

    hook = found.decoder.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        network(**_inputs(batch), use_cache=False)
    except _Reached:
        pass
    finally:
        hook.remove()
    ids = caught.pop("input_ids", None)
    if caught.get("inputs_embeds") is None:
        caught["inputs_embeds"] = found.decoder.get_input_embeddings()(ids)
    return {name: value for name, value in caught.items() if name not in _NOT_ITS_OWN}


def run_decoder(network: Any, inputs: Mapping[str, Any], found: Anatomy | None = None) -> Tensor:
    """The states after the decoder's final norm, [B, S, D], for what ``decoder_inputs`` gave."""
    found = found or anatomy(network)
    states: Tensor = found.decoder(**inputs, use_cache=False).last_hidden_state
    return states


def states_at(network: Any, batch: Mapping[str, Any], mask: Tensor) -> Tensor:
    """The states that the output head would read, [N, D], at the N positions where ``mask`` [B, S] is true.

    All of the model runs but the head, which sees one position only: no logits of whole sequences are made.
    """
    caught: list[Tensor] = []

    def catch(states: Tensor) -> Tensor:
        caught.append(states[mask])
        return states[:, -1:]

    with _before_head(network, catch):
        network(**_inputs(batch), use_cache=False)
    return caught[0]


def logits_of(network: Any, states: Tensor) -> Tensor:
    """Logits [N, V] of states [N, D] that the output head reads, with what some models do to them afterwards."""
    return logits_from(network.get_output_embeddings(), network.config.get_text_config(), states)


def logits_from(head: Any, config: Any, states: Tensor) -> Tensor:
    """``head`` applied to states [N, D] -> [N, V], capped or scaled as the text model's ``config`` says."""
    import torch

    logits: Tensor = head(states)
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = cap * torch.tanh(logits / cap)
    if scale := getattr(config, "logit_scale", None):
        logits = logits * scale
    if scale := getattr(config, "logits_scaling", None):
        logits = logits / scale
    return logits


def _inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != "labels"}


@contextmanager
def _before_head(network: Any, change: Any) -> Iterator[None]:
    def hook(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (change(args[0]), *args[1:])

    handle = network.get_output_embeddings().register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
