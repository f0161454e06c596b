"""Losses as pure functions: tensors in, (loss of each item, metrics) out.

Nothing is reduced here: a loss comes back as one value an item (token, sequence or pair), so that the trainer can
divide the sum over a whole optimiser step by one denominator. Metrics are detached 1-D tensors, one value an item too.
Dimension letters: B sequences or pairs, T tokens, N masked tokens.
"""
