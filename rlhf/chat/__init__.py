"""Conversations as token ids: templates as data, encoding by segment, and how a pretrained model's own is read.

Only `tokenizers` is needed: reading rows and counting tokens does not import torch or transformers.
"""

from rlhf.chat.chat import Chat, Message, split_words
from rlhf.chat.pretrained import adapt_chat
from rlhf.chat.template import ADDED_MARKERS, WORLD_MARKERS, Markers, Template, marker_template

__all__ = [
    "ADDED_MARKERS",
    "WORLD_MARKERS",
    "Chat",
    "Markers",
    "Message",
    "Template",
    "adapt_chat",
    "marker_template",
    "split_words",
]
