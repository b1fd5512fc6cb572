"""What each paper showed, as pure functions: arrays in, arrays out, no model and no files.

Common input is a pair of weight matrices, W0 before training and W after it, both (d_out, d_in); their
difference is the change that a method made, whatever the method.

    subspaces    LoRA: which directions the change uses, beside other runs and beside W0        (S1, S2, S3)
    ranks        AdaLoRA: where the rank goes and how steady that is                            (S5)
    magnitude    DoRA: change of magnitude against change of direction                          (S6)
    scaling      rsLoRA: how gradients and losses depend on the rank                            (S7)
    rates        LoRA+: two learning rates                                                      (S8)
    storage      QLoRA: bits by component, quantisation error, recovery                         (S9)
"""
