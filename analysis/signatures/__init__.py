"""What each paper showed, as pure functions: arrays in, arrays out, no model and no files.

What needs whole matrices is measured at the end of a run, in experiments/signatures/, and left as small
arrays; what is here turns those, records and histories into what analysis/figures/papers/ draws.

    subspaces    LoRA: which directions the change uses, beside other runs and beside W0        (S1, S2, S3)
    ranks        AdaLoRA: where the rank goes and how steady that is                            (S5)
    magnitude    DoRA: change of magnitude against change of direction                          (S6)
    scaling      rsLoRA: how gradients and losses depend on the rank                            (S7)
    rates        LoRA+: two learning rates                                                      (S8)
    storage      QLoRA: bits by component, memory, recovery                                     (S9)
"""
