"""Base class and registry of token mixings: padding mask and cache for incremental decoding.

Dimension letters are those of `resmlp.py`.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from fairseq.incremental_decoding_utils import with_incremental_state
from torch import Tensor, nn

from fairseq_resmlp.modules.incremental_state import IncrementalState


@with_incremental_state
class TokenMixing(nn.Module):
    """Exchange of information between the tokens of a sentence: the term inside Aff_post in equation (2).

    A subclass implements `mix` and may override `mix_last_position` with a faster version. Its constructor takes d, N,
    `causal` (a position sees no later position: the decoder) and the model's options. Its output starts at zero, so
    positions that training never reaches contribute nothing to a longer sentence.

    Shape:
        x is T x B x d; `keep` is T x B x 1, 1 at tokens and 0 at padding, or None if padding is on the right of a
        causal mixing. The result is T x B x d. With an incremental state, x is the last position, 1 x B x d, and the
        earlier positions come from the cache.

    The cache is append-only and is never reordered. `store` (at least t x B x d) contains every x in the order of
    arrival. `ancestors` (B x t) contains, for each hypothesis and position, the row of `store` viewed as (t B) x d.
    Beam search reorders only these indices.
    """

    def forward(
        self, x: Tensor, keep: Tensor | None = None, incremental_state: IncrementalState | None = None
    ) -> Tensor:
        if incremental_state is not None:
            store, ancestors = self.update_cache(x, incremental_state)
            return self.mix_last_position(store, ancestors)
        # The beta of an Aff makes padding nonzero again, so each mixing needs the mask.
        return self.mix(x if keep is None else x * keep, keep)

    def mix(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """Mix all positions of x, which is zero at padding. Shape: T x B x d to T x B x d."""
        raise NotImplementedError

    def mix_last_position(self, store: Tensor, ancestors: Tensor) -> Tensor:
        """Compute the last position of `mix` over the cached x, including the current one. Shape: 1 x B x d."""
        return self.mix(store.flatten(0, 1)[ancestors.t()], None)[-1:]

    def update_cache(self, x: Tensor, incremental_state: IncrementalState) -> tuple[Tensor, Tensor]:
        """Append x (1 x B x d) to the cache. Returns `store` and `ancestors`."""
        B = x.size(1)
        row = torch.arange(B, device=x.device).unsqueeze(1)  # B x 1
        state = self.get_incremental_state(incremental_state, "mixing")
        if state is None:
            store, ancestors = x, row
        else:
            past, earlier = state["store"], state["ancestors"]
            assert past is not None and earlier is not None
            t = earlier.size(1)
            store = past if t < past.size(0) else torch.cat([past, torch.empty_like(past)])
            if x.requires_grad:  # tensors saved for the backward pass must not be modified
                store = store.clone()
            store[t, :B] = x[0]
            ancestors = torch.cat([earlier, row + t * store.size(1)], 1)  # B x (t + 1)
        cache: dict[str, Tensor | None] = {"store": store, "ancestors": ancestors}  # TorchScript infers no Optional
        self.set_incremental_state(incremental_state, "mixing", cache)
        return store, ancestors

    @torch.jit.export
    def reorder_incremental_state(
        self, incremental_state: IncrementalState, new_order: Tensor
    ) -> IncrementalState | None:
        """Make each hypothesis of the batch continue from the cache of the hypothesis that it extends."""
        state = self.get_incremental_state(incremental_state, "mixing")
        if state is not None:
            store, ancestors = state["store"], state["ancestors"]
            assert store is not None and ancestors is not None
            ancestors = ancestors.index_select(0, new_order)
            if ancestors.size(0) > store.size(1):  # more hypotheses than `store` has columns: widen it
                store = store.flatten(0, 1)[ancestors.t()]  # t x B x d
                ancestors = torch.arange(ancestors.numel(), device=store.device).view(store.shape[:2]).t()
            state["store"], state["ancestors"] = store, ancestors
            self.set_incremental_state(incremental_state, "mixing", state)
        return incremental_state

    def stored_length(self, state_dict: dict[str, Tensor], name: str) -> int | None:
        """Return N of the layer `name` in a checkpoint, or None if the layer is missing or of another kind."""
        return None


def resize(x: Tensor, dim: int, size: int) -> Tensor:
    """Crop a dimension of x to a size, or pad it with zeros."""
    x = x.narrow(dim, 0, min(size, x.size(dim)))
    zeros = list(x.shape)
    zeros[dim] = size - x.size(dim)
    return torch.cat([x, x.new_zeros(zeros)], dim)


TOKEN_MIXING: dict[str, type[TokenMixing]] = {}  # the choices of --token-mixing

Class = TypeVar("Class", bound=type[TokenMixing])


def register_token_mixing(name: str) -> Callable[[Class], Class]:
    """Make a class the choice `name` of --token-mixing."""

    def register(cls: Class) -> Class:
        TOKEN_MIXING[name] = cls
        return cls

    return register
