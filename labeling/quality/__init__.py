"""How far labels can be trusted: agreement, labeler ability and bias, spam signals, weights for training.

Everything works on rows of the comparison contract. `votes` takes rankings apart into pairs; `dawid_skene`
and `bradley_terry` fit labelers to them; `agreement` and `signals` are what a page about labelers shows.
"""
