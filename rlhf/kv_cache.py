"""A key-value cache with room ahead: a step writes one slice in place where a growing cache copies all of it."""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """Keys and values [R, heads, K, head size] of one layer, as views of buffers that are longer than K."""

    def __init__(self, keys: Tensor, values: Tensor, group_size: int, room: int) -> None:
        """Repeat the prompts' keys and values for each of `group_size` rows, and leave `room` positions after them."""
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self._length = keys.shape[-2]
        self._buffers = [_with_room(tensor, group_size, room) for tensor in (keys, values)]
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append the new positions; return all."""
        end = self._length + key_states.shape[-2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length : end] = states
        self._length = end
        return self._show()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows; of the room ahead nothing is copied."""
        self._buffers = [_rows(buffer, indices, self._length) for buffer in self._buffers]
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)
        self.is_initialized = True
        return self.keys, self.values


def _with_room(states: Tensor, group_size: int, room: int) -> Tensor:
    prompts, heads, length, size = states.shape
    buffer = states.new_empty((prompts * group_size, heads, length + room, size))
    buffer.view(prompts, group_size, heads, length + room, size)[:, :, :, :length] = states[:, None]
    return buffer


def _rows(buffer: Tensor, indices: Tensor, length: int) -> Tensor:
    """A buffer of these rows alone, its first `length` positions filled."""
    kept = buffer.new_empty((len(indices), *buffer.shape[1:]))
    torch.index_select(buffer[:, :, :length], 0, indices, out=kept[:, :, :length])
    return kept
