"""One set of weights for all networks of PPO: LoRA adapters that take turns on it.

`peft` decides anew which weights learn whenever an adapter is set or switched off, and a layer that is
computed a second time for the gradient would be computed with whichever adapter is on by then. Here it is
decided once what learns, switching changes nothing but the adapter, and a layer that is computed again is
computed with the adapter of the first time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from rlhf.data.errors import DataError
from rlhf.models.adapters import Adapters, adapters_of, put_adapters

REFERENCE, VALUE = "reference", "value"  # names of adapters; the policy's keeps its own


class Backbone:
    """The weights that several networks share.

    Between `using` blocks the policy's adapter is on.

    Args:
        adapted: the `peft` model of the policy; its active adapter is the policy's and will learn.

    Attributes:
        policy: the name of the policy's adapter; reference: that of its frozen reference, None for the
            backbone without adapters.

    Raises:
        DataError: the adapters are of a kind that cannot share a backbone.
    """

    def __init__(self, adapted: Any) -> None:
        self.adapted = adapted
        self.policy: str = _only_adapter(adapted)
        self.reference: str | None = None
        self.model = adapted.get_base_model()
        adapted.requires_grad_(False)
        self._on: str | None = self.policy
        self._take_up()

    def put(self, name: str, adapters: Adapters) -> None:
        """Put frozen adapters on the backbone, off until they are used; nothing else changes."""
        put_adapters(self.adapted, name, adapters)
        self._take_up()

    def keep_reference(self) -> None:
        """Make the policy's adapters, as they are now, the frozen reference."""
        self.put(REFERENCE, adapters_of(self.adapted, self.policy))
        self.reference = REFERENCE

    def learn(self, name: str) -> set[nn.Parameter]:
        """Have the weights of an adapter learn from now on; returns them."""
        others = {p for p in self.adapted.parameters() if p.requires_grad}
        self.adapted.set_requires_grad(name, True)
        return {p for p in self.adapted.parameters() if p.requires_grad} - others

    def alone(self) -> Any:
        """The `peft` model with the policy's adapters as the only ones."""
        for name in set(self.adapted.peft_config) - {self.policy}:
            self.adapted.delete_adapter(name)
        self._take_up()
        return self.adapted

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Compute with another adapter, or with none."""
        before = self._on
        self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The `context_fn` of `torch.utils.checkpoint`: a layer is computed again with the adapter of now."""
        return nullcontext(), self.using(self._on)

    def _take_up(self) -> None:
        """Find the layers that have adapters."""
        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)  # a union would need both loaded
        self._layers: list[Any] = [m for m in self.adapted.modules() if isinstance(m, kinds)]
        self._switch(self._on)

    def _switch(self, name: str | None) -> None:
        # peft's own ways of switching (set_adapter, disable_adapter) also set requires_grad everywhere.
        for layer in self._layers:
            layer._active_adapter, layer._disable_adapters = [name or self.policy], name is None
        self._on = name


def _only_adapter(adapted: Any) -> str:
    """The name of the adapter that is on."""
    [name, *more] = adapted.active_adapters
    config = adapted.peft_config[name]
    if more or config.is_prompt_learning or config.is_adaption_prompt:
        raise DataError("the policy needs adapters of one kind that are parts of its layers, such as LoRA")
    if getattr(config, "bias", "none") != "none":
        raise DataError(
            f"the adapters have bias {config.bias!r}, so they change the backbone, which the reference "
            "shares; use bias 'none'"
        )
    return name
