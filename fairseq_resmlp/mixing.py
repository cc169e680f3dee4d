"""What every way to mix tokens shares: the mask of padding, and the cache of incremental decoding.

Dimensions are those of `resmlp.py`.
"""

from typing import Dict, Optional, Tuple, Type

import torch
from fairseq.incremental_decoding_utils import with_incremental_state
from torch import Tensor, nn

from .attention import IncrementalState


@with_incremental_state
class TokenMixing(nn.Module):
    """What lets the tokens of a sentence see each other: the inside of equation (2).

    A subclass writes `mix`, and may write a quicker `newest`. It is built with d, N, `causal` (no position sees a
    later one: the decoder) and the model's options, and starts as zero: what training never visits adds nothing to a
    longer sentence.

    Shape: x is T x B x d, keep is T x B x 1 with 1 at tokens and 0 at padding, or None where padding is on the right
    of a causal mixing; the result is T x B x d. With an incremental state x is the newest position, 1 x B x d, and the
    earlier ones come from the cache.

    The cache is written once and never reordered: `store` (at least t x B x d) holds every x as it came, and
    `ancestors` (B x t) which row of it, seen as (t B) x d, each hypothesis has at each position. Beam search reorders
    these numbers alone.
    """

    def forward(
        self, x: Tensor, keep: Optional[Tensor] = None, incremental_state: Optional[IncrementalState] = None
    ) -> Tensor:
        if incremental_state is not None:
            store, ancestors = self.remember(x, incremental_state)
            return self.newest(store, ancestors)
        # Every Aff's beta makes padding non-zero again, hence the mask before each mixing.
        return self.mix(x if keep is None else x * keep, keep)

    def newest(self, store: Tensor, ancestors: Tensor) -> Tensor:
        """The last position of `mix` over what is in the cache, with the newest x as its last. Shape: 1 x B x d."""
        return self.mix(store.flatten(0, 1)[ancestors.t()], None)[-1:]

    def remember(self, x: Tensor, incremental_state: IncrementalState) -> Tuple[Tensor, Tensor]:
        """Put the newest x, 1 x B x d, in the cache. Returns `store` and `ancestors`."""
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
            if x.requires_grad:  # what is kept for gradients must not be written to
                store = store.clone()
            store[t, :B] = x[0]
            ancestors = torch.cat([earlier, row + t * store.size(1)], 1)  # B x (t + 1)
        cache: Dict[str, Optional[Tensor]] = {"store": store, "ancestors": ancestors}  # TorchScript infers no Optional
        self.set_incremental_state(incremental_state, "mixing", cache)
        return store, ancestors

    @torch.jit.export
    def reorder_incremental_state(
        self, incremental_state: IncrementalState, new_order: Tensor
    ) -> Optional[IncrementalState]:
        """Let every hypothesis in the batch go on from the cache of the one it extends."""
        state = self.get_incremental_state(incremental_state, "mixing")
        if state is not None:
            store, ancestors = state["store"], state["ancestors"]
            assert store is not None and ancestors is not None
            ancestors = ancestors.index_select(0, new_order)
            if ancestors.size(0) > store.size(1):  # more hypotheses than `store` has room for: a wider one
                store = store.flatten(0, 1)[ancestors.t()]  # t x B x d
                ancestors = torch.arange(ancestors.numel(), device=store.device).view(store.shape[:2]).t()
            state["store"], state["ancestors"] = store, ancestors
            self.set_incremental_state(incremental_state, "mixing", state)
        return incremental_state

    def fold(self, pre: nn.Module, post: nn.Module) -> Tuple[nn.Module, nn.Module]:
        """Do what can be done, in a decoder, of the work of the modules around. Returns what is left of them."""
        return pre, post

    def length_in(self, state_dict: Dict[str, Tensor], name: str) -> Optional[int]:
        """N of the layer `name` of a checkpoint, or None if it has none or is of another kind."""
        return None


def fit(x: Tensor, dim: int, size: int) -> Tensor:
    """Cut a dimension of x down to a size, or fill it up with zeros."""
    x = x.narrow(dim, 0, min(size, x.size(dim)))
    zeros = list(x.shape)
    zeros[dim] = size - x.size(dim)
    return torch.cat([x, x.new_zeros(zeros)], dim)


TOKEN_MIXING: Dict[str, Type[TokenMixing]] = {}  # by their names in --token-mixing
